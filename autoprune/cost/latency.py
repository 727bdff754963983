"""Measure latency: pruned against dense, in alternating blocks, by the median of the blocks' ratios.

Shared machines drift by tens of per cent within seconds. A block of calls to the dense network beside
a block of calls to the pruned one sees the same drift, so their ratio is steady where neither time is
(spread below one per cent on a busy machine). The milliseconds reported are that ratio times a
reference time of the dense network that is measured once per study.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.errors import NonFiniteError

WARM_UP_BLOCKS = 2


@dataclass(frozen=True)
class LatencyComparison:
    """Hold what alternating blocks measured.

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


def compare_latency(
    dense: nn.Module,
    pruned: nn.Module,
    example: Tensor,
    *,
    blocks: int = 9,
    calls: int = 5,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyComparison:
    """Time two networks against each other.

    Args:
        dense: the network before pruning, in eval mode, on the device and in the layout to be timed.
        pruned: the network after pruning, likewise.
        example: one batch of input, shape ``(N, *input_shape)``, on the same device and in the same layout.
        blocks: pairs of blocks, at least 3; the first 2 warm up and are dropped.
        calls: forward passes in a block, at least 1.
        threads: CPU threads during the measurement; the former number is set again afterwards.
        clock: returns seconds; replaced in tests.

    Raises:
        ValueError: if there are too few blocks or calls.
        NonFiniteError: if the clock did not advance during a block.
    """
    if blocks <= WARM_UP_BLOCKS or calls < 1:
        raise ValueError(
            f"blocks is {blocks} and calls {calls}; expected at least {WARM_UP_BLOCKS + 1} blocks of 1 call"
        )
    pairs = []
    with _threads(threads), torch.inference_mode():
        for _ in range(blocks):
            pairs.append((_block(dense, example, calls, clock), _block(pruned, example, calls, clock)))
    pairs = pairs[WARM_UP_BLOCKS:]
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


def _block(network: nn.Module, example: Tensor, calls: int, clock: Callable[[], float]) -> float:
    """Return seconds per call."""
    _finish(example.device)
    start = clock()
    for _ in range(calls):
        network(example)
    _finish(example.device)
    return (clock() - start) / calls


def _finish(device: torch.device) -> None:
    """Wait until an accelerator has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)
