"""Engines that run and time a network: PyTorch as it is, compiled, or by a GPU's own clock.

An :class:`Engine` prepares a network, once and untimed, and then times calls of it. ``latency.py`` compares two
networks with one engine. The engine for ONNX Runtime is in ``export/timing_runtimes.py``, beside the rest of ONNX.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import nn

from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in

ForwardCall: TypeAlias = Callable[[], object]
"""Runs one forward pass of a prepared network and returns its output, of any structure."""

FileOf: TypeAlias = Callable[[nn.Module, object, int], bytes]
"""(network in eval mode, a batch, CPU threads) → content of the file that an engine runs."""

Clock: TypeAlias = Callable[[], float]
"""Returns seconds."""

_numbers = itertools.count()


def undisturbed_seconds(
    call: ForwardCall, times: int, wall: Clock = time.perf_counter, processor: Clock = time.process_time
) -> float:
    """Return seconds per call, without those in which other programs had the processor, where that can be told.

    Work of one thread on the CPU takes no longer than this process has a processor for, and no longer than goes by on
    the wall. So the lesser of both is taken, which on an idle machine is one and the same. With several threads, or on
    an accelerator, it is the clock on the wall that counts.

    Args:
        call: what is timed.
        times: how often it is called, at least once.
        wall: replaced in tests.
        processor: of this process, all threads; likewise.
    """
    start, before = wall(), processor()
    for _ in range(times - 1):
        call()
    device = _device_of(call())
    wait_for(device)
    elapsed, had = wall() - start, processor() - before
    is_one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    return (min(elapsed, had) if is_one_thread else elapsed) / times


def _device_of(output: object) -> torch.device:
    """Return where an output's first tensor is."""
    return next((each.device for each in tensors_in(output)), torch.device("cpu"))


def event_seconds(call: ForwardCall, times: int) -> float:
    """Return seconds per call by the GPU's own clock, from the first kernel's start to the last one's end.

    Args: as for :func:`undisturbed_seconds`.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / times


@dataclass(frozen=True)
class Engine:
    """A way to run networks for timing.

    Attributes:
        name: as in ``latency.runtime`` of a spec.
        prepare: (network in eval mode, a batch on the network's device as :meth:`Inputs.of` takes it, CPU threads) → a
            call that runs it. It may take long, as it exports or compiles; the call returns what the network returns.
            Called in inference mode and with PyTorch on these threads, as the timed calls are.
        seconds: (call, times) → seconds per call.
        format: in which numbers: ``fp32`` or ``int8``. In int8 the answers are of no use.
        file: (as for prepare) → content of the file that it runs; ``None`` if it runs none.
    """

    name: str
    prepare: Callable[[nn.Module, object, int], ForwardCall]
    seconds: Callable[[ForwardCall, int], float] = undisturbed_seconds
    format: str = "fp32"
    file: FileOf | None = None


def eager(network: nn.Module, example: object, threads: int) -> ForwardCall:
    """Return the network as it is."""
    inputs = Inputs.of(example)
    return partial(network, *inputs.args, **inputs.kwargs)


def compiled(network: nn.Module, example: object, threads: int) -> ForwardCall:
    """Return the network compiled by ``torch.compile`` for this very batch, in one piece.

    Raises:
        ModelError: with the compiler's reason, if there is none or it cannot compile the network.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        return network(*args, **kwargs)

    # PyTorch keeps what it compiled with the code of the function, gives up after eight variants, and looks through
    # all of them at each call. A function with code of its own for each network has one, which goes when it goes.
    own = FunctionType(
        forward.__code__.replace(co_name=f"forward_{next(_numbers)}"), forward.__globals__, closure=forward.__closure__
    )
    inputs = Inputs.of(example)
    call = partial(torch.compile(own, dynamic=False, fullgraph=True), *inputs.args, **inputs.kwargs)
    try:
        call()
    except Exception as error:  # the compiler, or the network's own code, may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(
            f"torch.compile cannot compile the network: {type(error).__name__}: {(lines or ['no reason given'])[0]}; "
            f"time it with the latency runtime torch"
        ) from error
    return call


TORCH_ENGINES = {
    engine.name: engine
    for engine in (Engine("torch", eager), Engine("compile", compiled), Engine("cuda", eager, event_seconds))
}


def wait_for(device: torch.device) -> None:
    """Wait until an accelerator has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
