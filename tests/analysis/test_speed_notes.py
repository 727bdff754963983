"""How much faster the best network is, in words."""

from __future__ import annotations

from autoprune.analysis.comparison import Comparison
from autoprune.analysis.speed_notes import no_worse_notes, speed_notes, speed_up
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
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
    assert notes == ["the best network is 1.50 ± 0.08 × as fast as uniform, 2.00 ± 0.10 × as fast as the dense network"]


def test_without_a_latency_nothing_is_said() -> None:
    unmeasured = Measurement({"accuracy": 0.9, "mflops": 40.0})
    best = Trial(Candidate(1, PruningPolicy(), 0, "sampler:tpe"), Completed(unmeasured), {}, 0)
    assert speed_up(unmeasured, DENSE) is None
    assert speed_notes(best, [best], [TO_DENSE], DENSE) == []
    assert speed_notes(None, [Trial(best.candidate, Failed("E", "m"), {}, 0)], [TO_DENSE], DENSE) == []


def test_at_no_less_accuracy_the_fastest_searched_network_is_put_beside_each_baseline() -> None:
    def one(number: int, origin: str, accuracy: float, latency_ms: float) -> Trial:
        found = Measurement({"accuracy": accuracy, "latency_ms": latency_ms}, {"latency_ms": 0.02})
        return Trial(Candidate(number, PruningPolicy(), 0, origin), Completed(found), {}, 0)

    uniform, inner = one(0, "baseline:uniform", 0.88, 3.0), one(1, "baseline:inner", 0.9, 2.4)
    slow, fast = one(2, "guided:drawn", 0.91, 2.0), one(3, "screened:faster", 0.89, 1.5)
    notes = no_worse_notes([uniform, inner, slow, fast], [uniform, inner], ACCURACY)
    assert notes == [
        "at no less accuracy than each baseline the search is 2.00 (1.94 to 2.06) × as fast as uniform (trial 3), "
        "1.20 (1.17 to 1.23) × as fast as inner (trial 2)"
    ]
    assert no_worse_notes([uniform], [uniform], ACCURACY) == []
