"""Latency by a clock that tests turn themselves; nothing here is really timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from autoprune.cost.latency import LatencyComparison, Timer, cpu_threads, measured_latency, median_stderr
from autoprune.cost.timing_engines import Clock, Engine, ForwardCall, eager, undisturbed_seconds
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import NonFiniteError

EXAMPLE = torch.zeros(1)


class FakeClock:
    """A clock that shows the time that timed networks have spent."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """A network that takes given seconds of a clock in each call, by block of calls."""

    def __init__(self, clock: FakeClock, seconds: Sequence[float], calls: int = 1) -> None:
        super().__init__()
        self.clock, self.seconds, self.calls = clock, seconds, calls
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now += self.seconds[len(self.seen) // self.calls]
        self.seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return x


class Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("broken")


def compare(dense: Sequence[float], pruned: Sequence[float], calls: int = 1, threads: int = 1) -> LatencyComparison:
    clock = FakeClock()
    timer = timer_of(Takes(clock, dense, calls), clock, blocks=len(dense), calls=calls, threads=threads)
    return timer.compare(Takes(clock, pruned, calls))


def by(clock: Clock) -> Callable[[ForwardCall, int], float]:
    return partial(undisturbed_seconds, wall=clock, processor=clock)


def timer_of(dense: nn.Module, clock: Clock, **latency: int) -> Timer:
    return Timer(dense, EXAMPLE, TimingPlan(**latency), Engine("torch", eager, by(clock)))


@pytest.fixture
def three_threads() -> object:
    former = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(former)


def test_the_ratio_is_the_median_of_the_blocks_ratios_not_of_the_times() -> None:
    found = compare(dense=[9, 9, 1, 2, 10], pruned=[9, 9, 0.5, 1.5, 1])
    assert found.ratio == pytest.approx(0.5)  # of 0.5, 0.75, 0.1; the medians of the times would say 1 / 2
    assert (found.dense_ms, found.pruned_ms) == pytest.approx((2000, 1000))
    assert found.ratio_stderr == pytest.approx(median_stderr([0.5, 0.75, 0.1]))


def test_drift_that_both_networks_see_leaves_no_error() -> None:
    found = compare(dense=[1, 1, 1, 7, 3, 5], pruned=[1, 1, 0.5, 3.5, 1.5, 2.5])
    assert (found.ratio, found.ratio_stderr) == pytest.approx((0.5, 0.0))


def test_the_first_two_blocks_warm_up() -> None:
    assert compare(dense=[500, 400, 2, 2, 2], pruned=[3, 900, 1, 1, 1]) == LatencyComparison(0.5, 0.0, 2000.0, 1000.0)


@pytest.mark.parametrize("calls", [1, 4])
def test_times_are_per_call(calls: int) -> None:
    found = compare([1, 1, 2, 2, 2], [1, 1, 1, 1, 1], calls=calls)
    assert (found.dense_ms, found.pruned_ms) == pytest.approx((2000, 1000))


@pytest.mark.usefixtures("three_threads")
def test_networks_run_in_inference_mode_on_the_asked_threads_which_are_put_back() -> None:
    clock = FakeClock()
    dense, pruned = Takes(clock, [1] * 5), Takes(clock, [1] * 5)
    timer_of(dense, clock, blocks=5, calls=1, threads=2).compare(pruned)
    assert dense.seen == pruned.seen == [(2, True)] * 5
    assert torch.get_num_threads() == 3
    assert not torch.is_inference_mode_enabled()


@pytest.mark.usefixtures("three_threads")
def test_threads_are_put_back_when_a_network_breaks() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        timer_of(Breaks(), FakeClock(), threads=1).compare(Breaks())
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("blocks", "calls"), [(4, 5), (0, 5), (9, 0), (9, -1)])
def test_too_few_blocks_or_calls_are_refused(blocks: int, calls: int) -> None:
    with pytest.raises(ValueError, match=f"blocks is {blocks} and calls {calls}; expected at least 5 blocks of 1 call"):
        timer_of(Breaks(), FakeClock()).compare(Breaks(), blocks=blocks, calls=calls)


def test_the_dense_network_is_made_ready_once_and_each_other_one_for_itself() -> None:
    clock, prepared = FakeClock(), list[tuple[nn.Module, int, int, bool]]()

    def prepare(network: nn.Module, example: Tensor, threads: int) -> partial[Tensor]:
        prepared.append((network, threads, torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return partial(network, example)

    dense, pruned, other = (Takes(clock, [1] * 50) for _ in range(3))
    engine = Engine("any", prepare, by(clock))
    timer = Timer(dense, EXAMPLE, TimingPlan(blocks=5, calls=1, threads=2), engine)
    assert timer.compare(blocks=5).ratio == 1
    assert [network for network, *_ in prepared] == [dense]
    assert len(dense.seen) == 10
    timer.compare(pruned)
    timer.compare(other, calls=4)
    assert [network for network, *_ in prepared] == [dense, pruned, other]
    assert {tuple(how) for _, *how in prepared} == {(2, 2, True)}
    assert (len(pruned.seen), len(other.seen)) == (5, 20)


@pytest.mark.parametrize(("dense", "pruned"), [([1, 1, 1, 1, 0], [1] * 5), ([1] * 5, [1, 1, 1, 0, 1])])
def test_a_clock_that_stands_still_is_reported(dense: Sequence[float], pruned: Sequence[float]) -> None:
    with pytest.raises(NonFiniteError, match="clock did not advance"):
        compare(dense, pruned)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], 0.0),
        ([2.0, 2.0, 2.0, 9.0], 0.0),
        ([1.0, 2.0, 3.0, 4.0], 1.2533 * 1.4826 * 1.0 / 2),
        ([1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 29.0, 37.0], 1.2533 * 1.4826 * 9.0 / 3),
    ],
)
def test_the_medians_error_is_that_of_the_formula(values: list[float], expected: float) -> None:
    assert median_stderr(values) == pytest.approx(expected)


def test_the_medians_error_is_right_for_normal_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(400, 101, generator=generator, dtype=torch.float64)
    spread = float(draws.median(dim=1).values.std())
    estimated = sum(median_stderr(row.tolist()) for row in draws) / len(draws)
    assert estimated == pytest.approx(spread, rel=0.1)


def test_latency_is_the_ratio_times_the_reference() -> None:
    assert measured_latency(LatencyComparison(0.5, 0.01, 4.0, 2.0), reference_ms=8.0) == pytest.approx((4.0, 0.08))


@pytest.mark.parametrize(("ratio", "reference"), [(0.0, 8.0), (float("nan"), 8.0), (float("inf"), 8.0), (0.5, 0.0)])
def test_a_latency_that_is_no_time_is_refused(ratio: float, reference: float) -> None:
    with pytest.raises(NonFiniteError, match="measured latency is"):
        measured_latency(LatencyComparison(ratio, 0.0, 1.0, 1.0), reference)


@pytest.mark.parametrize(("threads", "expected"), [(1, 2.0), (2, 5.0)])
def test_what_others_took_of_the_processor_is_not_counted_for_one_thread(threads: int, expected: float) -> None:
    wall, processor = FakeClock(), FakeClock()

    def call() -> Tensor:
        wall.now += 5.0
        processor.now += 2.0
        return torch.zeros(1)

    with cpu_threads(threads):
        assert undisturbed_seconds(call, 3, wall, processor) == expected


def test_other_threads_of_the_process_are_not_counted_either() -> None:
    wall, processor = FakeClock(), FakeClock()

    def call() -> Tensor:
        wall.now += 1.0
        processor.now += 2.0
        return torch.zeros(1)

    with cpu_threads(1):
        assert undisturbed_seconds(call, 3, wall, processor) == 1.0
