"""Latency, measured: pruned against dense, in alternating blocks, by the median of the blocks' ratios.

Shared machines drift by tens of per cent within seconds. A block of calls to the dense network beside a block of
calls to the pruned one sees the same drift, so their ratio is steady where neither time is (spread below one per cent
on a busy machine). The milliseconds reported are that ratio times a reference time of the dense network, measured
once per study.

One :class:`Engine` runs both. Timing happens in the process that searches or finishes a study, which trains nothing
meanwhile. Processes of autoprune take turns on a device, and those that train there rest (``timing_lock.py``).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from autoprune.core.latency_host import NOISY, LatencyHost
from autoprune.cost.timing_engines import Engine, ForwardCall
from autoprune.cost.timing_lock import timing_lock
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import NonFiniteError
from autoprune.models.calling.inputs import Inputs

WARM_UP_BLOCKS = 2
LEAST_BLOCKS = WARM_UP_BLOCKS + 3  # of fewer there is no spread to speak of


@dataclass(frozen=True)
class LatencyComparison:
    """What alternating blocks measured.

    Attributes:
        ratio: pruned time / dense time, median over blocks.
        ratio_stderr: standard error of that median.
        dense_ms: milliseconds per call of the dense network, median over blocks.
        pruned_ms: milliseconds per call of the pruned network, median over blocks.
    """

    ratio: float
    ratio_stderr: float
    dense_ms: float
    pruned_ms: float

    @property
    def is_noisy(self) -> bool:
        """Return whether the blocks are spread too far to tell: the machine is too busy, and not the network slow."""
        return self.ratio_stderr > NOISY * self.ratio


class NetworkTimer(Protocol):
    """What times networks against one dense network: a :class:`Timer` here, or one on another machine."""

    @property
    def plan(self) -> TimingPlan:
        """Return how it times."""
        ...  # pragma: no cover

    @property
    def runtime(self) -> str:
        """Return what runs the networks, by a name that is not ``auto``."""
        ...  # pragma: no cover

    @property
    def format(self) -> str:
        """Return in which numbers they are timed: ``fp32`` or ``int8``."""
        ...  # pragma: no cover

    @property
    def host(self) -> LatencyHost | None:
        """Return the other machine that times; ``None`` for this one, or until it is known."""
        ...  # pragma: no cover

    def compare(
        self, pruned: nn.Module | None = None, *, blocks: int | None = None, calls: int | None = None
    ) -> LatencyComparison:
        """Time a network against the dense one, as :meth:`Timer.compare` does."""
        ...  # pragma: no cover


class Timer:
    """A timer of networks against one dense network, which is exported or compiled only once.

    Args:
        dense: the network before pruning, in eval mode, on the device and in the layout to be timed. Its weights must
            not change from now on.
        example: one batch, as :meth:`Inputs.of` takes it, on the same device and in the same layout.
        plan: how to time.
        engine: what runs the networks.

    Attributes:
        plan: how it times.
        engine: what runs the networks.
        host: ``None``, as it times here.
    """

    host: LatencyHost | None = None

    def __init__(self, dense: nn.Module, example: object, plan: TimingPlan, engine: Engine) -> None:
        self.plan, self.engine = plan, engine
        self._dense, self._example = dense, Inputs.of(example)
        self._ready: ForwardCall | None = None

    @property
    def runtime(self) -> str:
        """Return the engine's name."""
        return self.engine.name

    @property
    def format(self) -> str:
        """Return the engine's format."""
        return self.engine.format

    def compare(
        self, pruned: nn.Module | None = None, *, blocks: int | None = None, calls: int | None = None
    ) -> LatencyComparison:
        """Time a network against the dense one.

        Args:
            pruned: the network after pruning, in eval mode, placed like the dense one; ``None`` for the dense one
                itself.
            blocks: pairs of blocks, at least 5; the first 2 warm up and are dropped. ``None``: as in the plan.
            calls: forward passes in a block, at least 1; ``None``: as in the plan.

        Raises:
            ValueError: if there are too few blocks or calls.
            NonFiniteError: if the clock did not advance during a block.
            ExportError: if the network cannot be exported to the engine.
            ModelError: if it cannot be compiled.
        """
        blocks = self.plan.blocks if blocks is None else blocks
        calls = self.plan.calls if calls is None else calls
        check_blocks(blocks, calls)
        with cpu_threads(self.plan.threads), torch.inference_mode():
            dense = self._dense_call()
            call = dense if pruned is None else self._prepare(pruned)
            with timing_lock(self._example.device.type):
                pairs = [(self.engine.seconds(dense, calls), self.engine.seconds(call, calls)) for _ in range(blocks)]
        return _comparison(pairs[WARM_UP_BLOCKS:], calls)

    def _dense_call(self) -> ForwardCall:
        if self._ready is None:
            self._ready = self._prepare(self._dense)
        return self._ready

    def _prepare(self, network: nn.Module) -> ForwardCall:
        return self.engine.prepare(network, self._example, self.plan.threads)


def check_blocks(blocks: int, calls: int) -> None:
    """Raise ValueError if there are too few blocks, or calls in a block, for an error to be known."""
    if blocks < LEAST_BLOCKS or calls < 1:
        raise ValueError(f"blocks is {blocks} and calls {calls}; expected at least {LEAST_BLOCKS} blocks of 1 call")


def time_alone(network: nn.Module, example: object, plan: TimingPlan, engine: Engine) -> tuple[float, float]:
    """Return a network's milliseconds per call, median over blocks, and the standard error of that median.

    On a shared machine they drift; to find out which of two networks is faster, compare them with a :class:`Timer`.

    Args: as for :class:`Timer`.

    Raises:
        NonFiniteError: if the clock did not advance during a block.
        ExportError: if the network cannot be exported to the engine.
        ModelError: if it cannot be compiled.
    """
    with cpu_threads(plan.threads), torch.inference_mode():
        call = engine.prepare(network, example, plan.threads)
        with timing_lock(Inputs.of(example).device.type):
            times = [1e3 * engine.seconds(call, plan.calls) for _ in range(plan.blocks)][WARM_UP_BLOCKS:]
    if min(times) <= 0:
        raise NonFiniteError(f"the clock did not advance during a block of {plan.calls} calls; raise latency.calls")
    return statistics.median(times), median_stderr(times)


def _comparison(pairs: list[tuple[float, float]], calls: int) -> LatencyComparison:
    """Return the comparison from pairs of seconds per call, the dense network's first.

    Raises:
        NonFiniteError: if the clock did not advance during a block.
    """
    if min(map(min, pairs)) <= 0:
        raise NonFiniteError(f"the clock did not advance during a block of {calls} calls; raise latency.calls")
    ratios = [after / before for before, after in pairs]
    return LatencyComparison(
        ratio=statistics.median(ratios),
        ratio_stderr=median_stderr(ratios),
        dense_ms=1e3 * statistics.median(before for before, _ in pairs),
        pruned_ms=1e3 * statistics.median(after for _, after in pairs),
    )


def median_stderr(values: list[float]) -> float:
    """Return the standard error of the median, from the median absolute deviation.

    For normal noise the deviation σ is 1.4826 · MAD and the median of n values has the standard error
    1.2533 · σ / √n.

    Source: Rousseeuw & Croux 1993, Alternatives to the Median Absolute Deviation, section 1.

    >>> median_stderr([1.0, 1.0, 1.0])
    0.0
    """
    centre = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - centre) for value in values)
    return float(1.2533 * deviation / len(values) ** 0.5)


def measured_latency(comparison: LatencyComparison, reference_ms: float) -> tuple[float, float]:
    """Return latency and its standard error in ms, as the ratio times the study's dense reference.

    Raises:
        NonFiniteError: if the clock did not advance.
    """
    latency = comparison.ratio * reference_ms
    if not 0 < latency < float("inf"):
        raise NonFiniteError(f"measured latency is {latency} ms; the clock did not advance during {comparison}")
    return latency, comparison.ratio_stderr * reference_ms


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Set the number of CPU threads that PyTorch uses, and put the former one back afterwards."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)
