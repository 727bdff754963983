"""How much faster the best network is, in words."""

from __future__ import annotations

from autoprune.analysis.comparison import Comparison
from autoprune.analysis.speed_notes import speed_notes, speed_up
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Trial

DENSE = Measurement({"accuracy": 0.9, "mflops": 100.0, "latency_ms": 4.0}, {"latency_ms": 0.0})
TO_DENSE = Comparison("dense", None, 0.0, 0.01, paired=True)


def trial(number: int, latency_ms: float, mflops: float = 40.0, noise: float = 0.0) -> Trial:
    found = Measurement({"accuracy": 0.9, "mflops": mflops, "latency_ms": latency_ms}, {"latency_ms": noise})
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), Completed(found), {}, 0)


def test_the_best_is_compared_in_time_with_each_baseline_and_the_dense_network() -> None:
    best, uniform = trial(1, 2.0, noise=0.1), trial(0, 3.0)
    notes = speed_notes(best, [uniform, best], [Comparison("uniform", 0, 0.0, 0.01, paired=True), TO_DENSE], DENSE)
    assert notes == ["the best network is 1.50 ± 0.07 × as fast as uniform, 2.00 ± 0.10 × as fast as the dense network"]


def test_without_a_latency_nothing_is_said() -> None:
    unmeasured = Measurement({"accuracy": 0.9, "mflops": 40.0})
    best = Trial(Candidate(1, PruningPolicy(), 0, "sampler:tpe"), Completed(unmeasured), {}, 0)
    assert speed_up(unmeasured, DENSE) is None
    assert speed_notes(best, [best], [TO_DENSE], DENSE) == []
    assert speed_notes(None, [Trial(best.candidate, Failed("E", "m"), {}, 0)], [TO_DENSE], DENSE) == []
