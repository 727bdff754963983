"""A timer that has networks timed on another machine, by a command, and does not give up at the first fault."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.core.latency_host import LatencyHost
from autoprune.core.notify import Notify
from autoprune.cost.latency import LatencyComparison, check_blocks
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import TimingError
from autoprune.export.onnx_derivation import OnnxConverter
from autoprune.export.timing_command import TimingCommand, TimingRequest
from autoprune.models.calling.inputs import Inputs

PAUSES = (5.0, 30.0)  # seconds before the second and the third try


class RemoteTimer:
    """A timer of networks against one dense network, in ONNX Runtime on another machine.

    Args:
        dense: the network before pruning, in eval mode. Its weights must not change from now on.
        example: one batch, as :meth:`Inputs.of` takes it.
        plan: how to time.
        command: that times.
        notify: called with a sentence when a try fails.
        host: the machine that timed this dense network before; another one's answer is a fault. ``None``: the first
            that answers.
        pauses: seconds before each further try; ``None`` for :data:`PAUSES`.

    Attributes:
        host: the machine that times; ``None`` until it is known.
        runtime: what runs the networks.
        format: in which numbers.
    """

    runtime = "onnxruntime"
    format = "fp32"

    def __init__(
        self,
        dense: nn.Module,
        example: object,
        plan: TimingPlan,
        command: TimingCommand,
        notify: Notify,
        host: LatencyHost | None = None,
        pauses: Sequence[float] | None = None,
    ) -> None:
        self.host = host
        self._plan, self._command, self._notify = plan, command, notify
        self._pauses = PAUSES if pauses is None else tuple(pauses)
        self._dense, self._example = dense, Inputs.of(example).on("cpu").map(Tensor.contiguous)
        self._converter = OnnxConverter(self._example)
        self._file: bytes | None = None
        self._is_down = False

    @property
    def plan(self) -> TimingPlan:
        """Return how it times, with the machine's name once it is known."""
        return replace(self._plan, host=self.host.name if self.host else "")

    def compare(
        self, pruned: nn.Module | None = None, *, blocks: int | None = None, calls: int | None = None
    ) -> LatencyComparison:
        """Have a network timed against the dense one; what fails is tried again, once only if it failed so before.

        Args:
            pruned: the network after pruning, in eval mode; ``None`` for the dense one itself.
            blocks: pairs of blocks, at least 5; the first 2 warm up and are dropped. ``None``: as in the plan.
            calls: forward passes in a block, at least 1; ``None``: as in the plan.

        Raises:
            ValueError: if there are too few blocks or calls.
            ExportError: if the network cannot be exported.
            TimingError: if no try succeeds.
        """
        blocks = self._plan.blocks if blocks is None else blocks
        calls = self._plan.calls if calls is None else calls
        check_blocks(blocks, calls)
        return self.timed(self._request(pruned, blocks, calls))

    def request(self, pruned: nn.Module) -> TimingRequest:
        """Return what is sent to have a network timed as the plan says.

        Raises:
            ExportError: if the network cannot be exported.
        """
        return self._request(pruned, self._plan.blocks, self._plan.calls)

    def timed(self, request: TimingRequest, given_up: threading.Event | None = None) -> LatencyComparison:
        """Return what came of a request; what fails is tried again, once only if it failed so before.

        Args:
            request: as :meth:`request` returns it.
            given_up: ends the trying, once it is set, with an error.

        Raises:
            TimingError: if no try succeeds.
        """
        for pause in () if self._is_down else self._pauses:
            try:
                return self._once(request, given_up)
            except TimingError as error:
                if given_up is not None and given_up.is_set():
                    raise
                self._notify(f"{error}; trying again in {pause:g} s")
                (given_up or threading.Event()).wait(pause)
        try:
            found = self._once(request, given_up)
        except TimingError:
            self._is_down = True
            raise
        self._is_down = False
        return found

    def _request(self, pruned: nn.Module | None, blocks: int, calls: int) -> TimingRequest:
        with torch.inference_mode():
            if self._file is None:
                self._file = self._converter.file(self._dense)[0]
            content, session = self._converter.file(self._dense if pruned is None else pruned)
            feed = session.feed(*self._example.args, **self._example.kwargs)
        return TimingRequest(self._file, content, feed, blocks, calls, self._plan.threads)

    def _once(self, request: TimingRequest, given_up: threading.Event | None) -> LatencyComparison:
        found, host = self._command.time(request, given_up)
        if self.host is not None and not self.host.is_same(host):
            raise TimingError(
                f"the latency command timed on {host.described}, and this study's latency is that of "
                f"{self.host.described}; a front mixes no machines: let it reach that one, or begin a new study"
            )
        self.host = host
        return found
