"""Choosing and comparing by metrics other than accuracy: smaller is better, no mean, no standard error."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_studies import MIOU, RMSE, judged, judged_trial, resampled

from autoprune.analysis import pareto
from autoprune.analysis.comparison import Scored, compare
from autoprune.analysis.comparison_notes import chance_notes, noise_notes, worth_notes
from autoprune.analysis.pareto import best_few, best_within, choose, hypervolume, ranked_within
from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, METRICS, Metric, register
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Completed, Trial
from autoprune.errors import NothingFitsError, UsageError

values = st.floats(0.01, 0.99).map(lambda value: round(value, 4))
studies = st.lists(st.tuples(values, st.integers(1, 60), st.floats(0.001, 0.1)), min_size=1, max_size=12)
R2 = Metric("r2")


@given(studies, st.integers(1, 60))
def test_a_loss_of_quality_is_ranked_as_its_mirror_is(found: list[tuple[float, int, float]], limit: int) -> None:
    """An rmse of x is as good as a score of 1 − x: whoever is chosen by the one is chosen by the other."""
    budget = Budget.parse({"mflops": limit})
    small = [judged_trial(n, judged(RMSE, x, m, error, loss=n / 10)) for n, (x, m, error) in enumerate(found)]
    large = [judged_trial(n, judged(MIOU, -x, m, error, loss=n / 10)) for n, (x, m, error) in enumerate(found)]
    numbers = [
        [one.number for one in ranked_within(trials, budget, metric)]
        for trials, metric in ((small, RMSE), (large, MIOU))
    ]
    assert numbers[0] == numbers[1]
    best = best_within(small, budget, RMSE)
    assert (best.number if best else None) == next(iter(numbers[0]), None)


def test_the_front_goes_down_where_smaller_is_better() -> None:
    register([RMSE])
    trials = [judged_trial(n, judged(RMSE, 0.5 + 0.1 * n, 50 - 10 * n, 0.01)) for n in range(3)]
    worse = judged_trial(3, judged(RMSE, 0.9, 45, 0.01))
    assert [one.number for one in pareto.front([*trials, worse], ("rmse", "mflops"))] == [0, 1, 2]


@given(studies)
def test_the_hypervolume_of_any_metric_is_a_share_and_only_grows(found: list[tuple[float, int, float]]) -> None:
    for metric in (RMSE, MIOU, R2):
        METRICS.pop(metric.name, None)
        register([metric])
        trials = [judged_trial(n, judged(metric, x, m)) for n, (x, m, _) in enumerate(found)]
        shares = [
            hypervolume(trials[:n], (metric.name, "mflops"), judged(metric, 0.2, 60)) for n in range(len(found) + 1)
        ]
        assert shares == sorted(shares)
        assert all(0 <= share <= 1 for share in shares)


def test_the_hypervolume_of_an_rmse_is_computed_by_hand() -> None:
    register([RMSE])
    one = [judged_trial(0, judged(RMSE, 0.6, 25))]
    assert hypervolume(one, ("rmse", "mflops"), judged(RMSE, 0.5, 100)) == pytest.approx(0.4 * 0.75)


def test_the_cheapest_that_is_good_enough_and_the_nearest_that_is_not() -> None:
    trials = [judged_trial(n, judged(RMSE, 0.5 + 0.1 * n, 50 - 10 * n, accuracy=0.9 - 0.1 * n)) for n in range(4)]
    assert choose(trials, Budget(), RMSE, QualityLimits({RMSE: 0.65})).number == 1
    assert choose(trials, Budget(), RMSE, QualityLimits({RMSE: 0.85, ACCURACY: 0.9})).number == 0
    assert len(best_few(trials, Budget.parse({"mflops": 45}), RMSE, 9, QualityLimits({RMSE: 0.75}))) == 2
    said = r"no trial of 4 completed ones meets rmse ≤ 0\.4000 mm; the nearest is trial 0 with rmse 0\.5000 mm"
    with pytest.raises(NothingFitsError, match=said):
        choose(trials, Budget(), RMSE, QualityLimits({RMSE: 0.4}))
    with pytest.raises(UsageError, match="miou was limited, and this study does not measure it; it measures rmse"):
        choose(trials, Budget(), RMSE, QualityLimits({MIOU: 0.4}))


def test_a_cost_is_no_limit_of_quality() -> None:
    with pytest.raises(UsageError, match="mflops is a cost, and was given as a quality"):
        QualityLimits({METRICS["mflops"]: 3.0})


def scored_of(metric: Metric, value: float, error: float | None, paired: str = "") -> Scored:
    return Scored("one", 1, judged(metric, value, 40, error), paired)


@given(values, values, st.floats(0.001, 0.2))
def test_a_difference_above_zero_is_better_whatever_the_goal(one: float, other: float, error: float) -> None:
    small = compare(scored_of(RMSE, one, error), scored_of(RMSE, other, error), RMSE)
    large = compare(scored_of(MIOU, one, error), scored_of(MIOU, other, error), MIOU)
    assert small.difference == -large.difference
    assert (small.difference > 0) is (one < other)
    swapped = {"better": "worse", "worse": "better", "not distinguishable": "not distinguishable"}
    assert small.verdict == swapped[large.verdict]


def test_without_a_standard_error_there_is_no_verdict() -> None:
    for errors in ((None, None), (0.01, None), (None, 0.01)):
        one, other = (scored_of(RMSE, value, error) for value, error in zip((0.4, 0.5), errors, strict=True))
        found = compare(one, other, RMSE)
        assert (found.verdict, found.stderr, found.low, found.high) == ("unknown", None, None, None)
        assert found.difference == pytest.approx(0.1)
        assert found.to_json()["verdict"] == "unknown"
    assert compare(scored_of(RMSE, 0.4, 0.0), scored_of(RMSE, 0.5, 0.0), RMSE).verdict == "better"


def test_resampled_values_that_err_together_tell_more_apart_than_their_errors() -> None:
    one, other = (scored_of(RMSE, value, 0.05, resampled(value, 0.05, 1.0, 3)) for value in (0.40, 0.45))
    paired = compare(one, other, RMSE)
    assert paired.paired
    assert paired.difference == pytest.approx(0.05, abs=1e-6)
    assert paired.verdict == "better"
    apart = compare(one, Scored("other", 2, other.measurement), RMSE)
    assert apart.verdict == "not distinguishable"
    assert apart.stderr == pytest.approx(math.hypot(0.05, 0.05))


def test_what_was_stored_in_two_ways_is_compared_by_its_errors() -> None:
    right = PairedScores.pack([True] * 400).text
    found = compare(scored_of(RMSE, 0.4, 0.05, right), scored_of(RMSE, 0.5, 0.05, resampled(0.5, 0.05)), RMSE)
    assert not found.paired
    assert found.stderr == pytest.approx(math.hypot(0.05, 0.05))


def notes_of(metric: Metric, trials: list[Trial], dense: Scored) -> str:
    budget = Budget.parse({"mflops": 50})
    found = pareto.best_within(trials, budget, metric)
    assert found is not None
    comparisons = [compare(scored_of(metric, 0.4, 0.01), dense, metric)]
    if metric.name not in dense.measurement.stderr:
        comparisons = [compare(scored_of(metric, 0.4, None), dense, metric)]
    return "\n".join([*worth_notes(trials, budget, comparisons, metric), *noise_notes(trials, budget, dense, metric)])


def test_notes_speak_in_the_unit_of_the_metric() -> None:
    trials = [judged_trial(n, judged(RMSE, 0.4 + 0.01 * n, 40, 0.01)) for n in range(3)]
    notes = notes_of(RMSE, trials, Scored("dense", None, judged(RMSE, 0.5, 100, 0.01)))
    assert "the best trial is better than the dense network by 0.1000 mm (95 % interval 0.0723 to 0.1277)" in notes
    assert "differences below 0.0277 mm cannot be told apart" in notes
    assert "intervals are unpaired and may be too wide: what each made of every example was not stored for all" in notes
    assert "%" not in notes.replace("95 %", "")
    close = notes_of(RMSE, trials, Scored("dense", None, judged(RMSE, 0.41, 100, 0.01)))
    assert "dense network: +0.0100 mm (positive is better, 95 % interval -0.0177 to +0.0377)" in close


def test_notes_without_a_standard_error_pretend_nothing() -> None:
    trials = [judged_trial(n, judged(RMSE, 0.4 + 0.01 * n, 40)) for n in range(3)]
    notes = notes_of(RMSE, trials, Scored("dense", None, judged(RMSE, 0.3, 100)))
    assert "the best trial is 0.1000 mm worse than the dense network (no standard error)" in notes
    assert "rmse has no standard error here, so nobody can tell whether a difference is more than chance" in notes
    for word in ("interval", "told apart", "distinguishable"):
        assert word not in notes


@pytest.mark.parametrize(("rmse", "is_at_chance"), [(0.9, True), (0.88, True), (0.85, False), (1.5, True)])
def test_an_rmse_no_better_than_guessing_is_at_chance(rmse: float, is_at_chance: bool) -> None:
    notes = chance_notes(judged(RMSE, rmse, 40, 0.02), RMSE, 0.9)
    assert bool(notes) is is_at_chance
    assert all("guessing gives 0.9000 mm" in note and "check the data" in note for note in notes)


def test_whose_chance_is_not_known_is_not_at_chance() -> None:
    assert chance_notes(judged(RMSE, 5.0, 40), RMSE, None) == []
    assert chance_notes(Measurement({}), RMSE, 0.5) == []


def test_a_tie_within_noise_is_broken_by_loss_in_any_metric() -> None:
    found = [(0.50, 0.9), (0.54, 0.2)]
    near = [judged_trial(n, judged(RMSE, rmse, 40, 0.05, loss=loss)) for n, (rmse, loss) in enumerate(found)]
    assert best_within(near, Budget(), RMSE) is near[1]
    exact = [judged_trial(n, judged(RMSE, rmse, 40, loss=loss)) for n, (rmse, loss) in enumerate(found)]
    assert best_within(exact, Budget(), RMSE) is exact[0]
    assert isinstance(exact[0].outcome, Completed)
