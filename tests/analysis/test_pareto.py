"""Domination, the front within noise, hypervolume, and the pick, each against a slower or simpler twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from autoprune.analysis.pareto import (
    best_few,
    best_within,
    choose,
    front,
    hypervolume,
    is_lead_luck,
    knee,
    non_dominated,
    ranked_within,
)
from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, METRICS
from autoprune.core.policy import PruningPolicy
from autoprune.core.preference import Preference
from autoprune.core.trial import Candidate, Completed, Failed, OverBudget, Trial
from autoprune.errors import NothingFitsError, UsageError

PAIR = ("accuracy", "mflops")
THREE = ("accuracy", "mflops", "latency_ms")
DENSE = Measurement({"accuracy": 0.9, "mflops": 40.0, "latency_ms": 4.0, "loss": 0.3})


def completed(number: int, accuracy: float, mflops: float, noise: float = 0.0, **more: float) -> Trial:
    """Return a completed trial; the keyword arguments are further metrics, ``NAME_noise`` their standard errors."""
    stderr = {"accuracy": noise, **{k.removesuffix("_noise"): v for k, v in more.items() if k.endswith("_noise")}}
    values = {k: v for k, v in more.items() if not k.endswith("_noise")}
    measurement = Measurement({"accuracy": accuracy, "mflops": mflops, **values}, stderr)
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), Completed(measurement), {}, 0)


def at_least(accuracy: float) -> QualityLimits:
    return QualityLimits({ACCURACY: accuracy})


def failed(number: int) -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), Failed("E", "m"), {}, 0)


def over_budget(number: int) -> Trial:
    cheap = Measurement({"accuracy": 1.0, "mflops": 0.1, "latency_ms": 0.1})
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), OverBudget(cheap, {"mflops": 1.0}), {}, 0)


# coarse grids, so that ties and duplicates are common, of powers of two, so that sums are exact
accuracies = st.integers(0, 16).map(lambda n: n / 16)
costs = st.integers(1, 20).map(lambda n: 2.0 * n)
noises = st.integers(0, 4).map(lambda n: n / 16)


@st.composite
def ledgers(draw: st.DrawFn, noise: st.SearchStrategy[float] = noises) -> list[Trial]:
    """Draw trials, some of them not completed, with exact MFLOPs and everything else noisy."""
    trials = []
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from([failed, over_budget, completed, completed, completed]))
        more = (
            {"latency_ms": draw(costs) / 8, "latency_ms_noise": 4 * draw(noise), "loss": draw(costs)}
            if kind is completed
            else {}
        )
        trials.append(kind(number, draw(accuracies), draw(costs), draw(noise), **more) if more else kind(number))
    return trials


def slowly_non_dominated(points: np.ndarray) -> list[bool]:
    """Compare every row with every other."""
    return [not any((p <= q).all() and (p < q).any() for p in points) for q in points]


def beats(one: Trial, other: Trial, objectives: Sequence[str]) -> bool:
    """Return whether a trial is somewhere better and nowhere worse, beyond the larger standard error."""
    a, b = one.outcome.measurement, other.outcome.measurement
    gains = {k: METRICS[k].minimised(b[k]) - METRICS[k].minimised(a[k]) for k in objectives}
    noise = {k: max(a.error(k), b.error(k)) for k in objectives}
    return all(gains[k] >= -noise[k] for k in objectives) and any(gains[k] > noise[k] for k in objectives)


def slowly_unbeaten(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    """Return the noise-aware front, comparing every pair in Python."""
    plain = front(trials, objectives, noise_aware=False)
    everyone = range(len(plain))
    beaten_by = [{i for i in everyone if surely_beats(plain[i], one, objectives)} for one in plain]
    stays: set[int] = set()
    open_ = set(everyone)
    while open_:
        free = {i for i in open_ if not beaten_by[i] & open_} or {min(open_)}
        stays |= free
        open_ = {i for i in open_ - free if not beaten_by[i] & free and not any(i in beaten_by[j] for j in free)}
    return [plain[index] for index in sorted(stays)]


def surely_beats(one: Trial, other: Trial, objectives: Sequence[str]) -> bool:
    """Return whether a trial dominates another beyond noise, the resolution of costs counted as noise."""
    a, b = one.outcome.measurement, other.outcome.measurement
    noise = {
        name: max(a.error(name), b.error(name), METRICS[name].resolution * min(abs(a[name]), abs(b[name])))
        for name in objectives
    }
    if any(METRICS[name].is_better(b[name], a[name], noise[name]) for name in objectives):
        return False
    return any(METRICS[name].is_better(a[name], b[name], noise[name]) for name in objectives)


def is_completed(trial: Trial) -> bool:
    return isinstance(trial.outcome, Completed)


@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 30), st.integers(1, 4)), elements=st.integers(0, 4)))
def test_non_dominated_is_what_the_slow_comparison_says(points: np.ndarray) -> None:
    before = points.copy()
    assert non_dominated(points).tolist() == slowly_non_dominated(points)
    assert (points == before).all()


@given(ledgers(), st.sampled_from([PAIR, THREE]))
def test_the_plain_front_is_every_non_dominated_completed_trial(trials: list[Trial], objectives: Sequence[str]) -> None:
    rows = [trial for trial in trials if is_completed(trial)]
    points = np.array([[METRICS[k].minimised(t.outcome.measurement[k]) for k in objectives] for t in rows])
    expected = {t.number for t, best in zip(rows, slowly_non_dominated(points), strict=True) if best}
    assert {t.number for t in front(trials, objectives, noise_aware=False)} == expected


@given(ledgers(), st.sampled_from([PAIR, THREE]))
def test_the_front_is_a_part_of_the_plain_front_and_never_empty(trials: list[Trial], objectives: Sequence[str]) -> None:
    plain = front(trials, objectives, noise_aware=False)
    shown = front(trials, objectives)
    assert shown == [trial for trial in plain if trial in shown]
    assert bool(shown) == any(is_completed(trial) for trial in trials)


@given(ledgers(), st.sampled_from([PAIR, THREE]))
def test_nobody_on_the_front_is_beaten_beyond_noise_by_another(trials: list[Trial], objectives: Sequence[str]) -> None:
    shown = front(trials, objectives)
    assert not [(a.number, b.number) for a in shown for b in shown if beats(a, b, objectives)]


@given(ledgers())
def test_who_is_left_out_is_beaten_beyond_noise_by_somebody_on_the_front(trials: list[Trial]) -> None:
    shown = front(trials, PAIR)
    left_out = [trial for trial in front(trials, PAIR, noise_aware=False) if trial not in shown]
    assert all(any(beats(survivor, trial, PAIR) for survivor in shown) for trial in left_out)


@given(ledgers(), st.sampled_from([PAIR, THREE]))
def test_the_front_is_what_the_slow_comparison_says(trials: list[Trial], objectives: Sequence[str]) -> None:
    assert front(trials, objectives) == slowly_unbeaten(trials, objectives)


def test_a_front_of_hundreds_is_what_the_slow_comparison_says() -> None:
    stream = np.random.default_rng(0)
    trials = []
    for number, row in enumerate(np.abs(stream.standard_normal((400, 3)))):
        share, cost, wait = (row / np.linalg.norm(row)).tolist()  # on a sphere nobody dominates anybody
        noise = {"latency_ms_noise": 0.05 * wait}
        trials.append(completed(number, 0.5 + 0.3 * share, 50 - 30 * cost, 0.002, latency_ms=3 - 2 * wait, **noise))
    assert len(front(trials, THREE, noise_aware=False)) > 300
    assert front(trials, THREE) == slowly_unbeaten(trials, THREE)


def test_beaten_only_by_somebody_beaten_is_to_stay() -> None:
    near = {"latency_ms_noise": 1.0}
    chain = [completed(n, 0.9 - n / 10, 1.0, 0.05, latency_ms=2.8 - 0.9 * n, **near) for n in range(3)]
    objectives = ("accuracy", "latency_ms")
    assert [beats(chain[0], chain[1], objectives), beats(chain[1], chain[2], objectives)] == [True, True]
    assert not beats(chain[0], chain[2], objectives)
    assert front(chain, objectives) == [chain[0], chain[2]]


def test_a_circle_of_near_equals_leaves_its_most_accurate() -> None:
    steps = [(0.0, 0.0, 0.0), (1.5, -0.75, -0.75), (0.75, 0.75, -1.5)]  # in units of noise; each beats the next
    circle = [
        completed(n, 0.5 - a / 8, 20 + m, 1 / 8, latency_ms=10 + t, mflops_noise=1.0, latency_ms_noise=1.0)
        for n, (a, m, t) in enumerate(steps)
    ]
    assert all(beats(circle[n], circle[(n + 1) % 3], THREE) for n in range(3))
    assert front(circle, THREE) == [circle[0]]


@given(ledgers(noise=st.just(0.0)), st.sampled_from([PAIR, THREE]))
def test_without_noise_the_front_is_the_plain_front(trials: list[Trial], objectives: Sequence[str]) -> None:
    assert front(trials, objectives) == front(trials, objectives, noise_aware=False)


@given(ledgers(), st.randoms(use_true_random=False))
def test_the_front_is_ordered_best_first_whatever_the_order_of_trials(trials: list[Trial], random: object) -> None:
    shown = front(trials, PAIR)
    keys = [(-t.outcome.measurement["accuracy"], t.outcome.measurement["mflops"], t.number) for t in shown]
    assert keys == sorted(keys)
    shuffled = list(trials)
    random.shuffle(shuffled)
    assert front(shuffled, PAIR) == shown


def test_noise_hides_a_gain_that_costs_much() -> None:
    cheap, dear = completed(0, 0.900, 10, noise=0.01), completed(1, 0.905, 20, noise=0.01)
    assert front([cheap, dear], PAIR) == [cheap]
    assert front([cheap, dear], PAIR, noise_aware=False) == [dear, cheap]


@pytest.mark.parametrize(("mflops", "is_equal"), [(49.3, True), (48.0, False)])
def test_nobody_wins_by_where_rounding_left_the_budget(mflops: float, is_equal: bool) -> None:
    good, bad = completed(0, 0.98, 50, noise=0.01), completed(1, 0.90, mflops, noise=0.01)
    assert front([good, bad], PAIR) == ([good] if is_equal else [good, bad])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], 0.0),
        ([(0.5, 20.0)], 0.25),
        ([(0.5, 20.0), (0.5, 20.0)], 0.25),
        ([(0.5, 20.0), (0.8, 30.0)], 0.25 + 0.3 * 0.25),
        ([(0.5, 20.0), (0.4, 30.0)], 0.25),
        ([(0.9, 40.0)], 0.0),  # the dense network itself
        ([(0.9, 50.0), (0.0, 1.0)], 0.0),
    ],
)
def test_hypervolume_is_the_share_of_the_box_computed_by_hand(
    points: list[tuple[float, float]], expected: float
) -> None:
    trials = [completed(n, accuracy, mflops) for n, (accuracy, mflops) in enumerate(points)]
    assert hypervolume(trials, PAIR, DENSE) == pytest.approx(expected, abs=1e-12)


def test_hypervolume_in_three_objectives_agrees_with_throwing_darts() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (8, 3))  # accuracy lost, share of dense MFLOPs, share of dense latency
    darts = rng.uniform(0, 1, (40_000, 3))
    expected = (points[:, None] <= darts).all(axis=2).any(axis=0).mean()
    trials = [completed(n, 1 - a, 40 * m, latency_ms=4 * t) for n, (a, m, t) in enumerate(points)]
    assert hypervolume(trials, THREE, DENSE) == pytest.approx(expected, abs=0.01)  # four standard errors


@given(ledgers(), st.sampled_from([PAIR, THREE, ("loss", "mflops")]))
def test_hypervolume_only_grows_and_stays_below_one(trials: list[Trial], objectives: Sequence[str]) -> None:
    grown = [hypervolume(trials[:n], objectives, DENSE) for n in range(len(trials) + 1)]
    assert grown[0] == 0.0
    assert all(0 <= value < 1 for value in grown)
    assert all(after >= before - 1e-12 for before, after in pairwise(grown))


def test_the_knee_is_where_the_front_bends() -> None:
    bend = [completed(0, 0.90, 40), completed(1, 0.88, 15), completed(2, 0.50, 10)]
    assert knee(bend, PAIR) is bend[1]
    assert knee(bend[:2], PAIR) is None


@given(ledgers(), st.integers(1, 40))
def test_the_best_within_a_budget_meets_it_and_only_noise_is_better(trials: list[Trial], limit: int) -> None:
    fitting = [t for t in trials if is_completed(t) and t.outcome.measurement["mflops"] <= limit]
    best = best_within(trials, Budget({"mflops": Limit(limit)}), ACCURACY, "accuracy")
    assert (best is None) == (not fitting)
    if best is not None:
        assert best in fitting
        found = best.outcome.measurement
        top = max(t.outcome.measurement["accuracy"] for t in fitting)
        widest = max(
            t.outcome.measurement.error("accuracy") for t in fitting if t.outcome.measurement["accuracy"] == top
        )
        assert found["accuracy"] >= top - widest
        same = [t.outcome.measurement for t in fitting if t.outcome.measurement["accuracy"] == top]
        assert found["loss"] <= min(m["loss"] for m in same)


def test_loss_decides_between_equals_within_noise() -> None:
    trials = [
        completed(0, 0.900, 10, 0.02, loss=0.5),
        completed(1, 0.895, 10, 0.02, loss=0.3),
        completed(2, 0.850, 10, 0.02, loss=0.1),
    ]
    assert best_within(trials, Budget(), ACCURACY) is trials[1]


def equals(*costs: tuple[float, float]) -> list[Trial]:
    """Return trials as good as one another within noise, by (loss, latency), and a faster one that is worse."""
    alike = [completed(n, 0.9 - n / 1000, 10, 0.02, loss=loss, latency_ms=ms) for n, (loss, ms) in enumerate(costs)]
    return [*alike, completed(len(costs), 0.85, 10, 0.02, loss=0.1, latency_ms=0.1)]


@pytest.mark.parametrize(("prefer", "number"), [("latency", 2), ("size", 1), ("accuracy", 1)])
def test_what_is_preferred_decides_between_equals_within_noise(prefer: Preference, number: int) -> None:
    trials = equals((0.5, 3.0), (0.3, 3.1), (0.4, 2.0))  # of no size: it decides nothing
    assert best_within(trials, Budget(), ACCURACY, prefer).number == number
    assert best_few(trials, Budget(), ACCURACY, 1, prefer=prefer)[0].number == number


def test_loss_decides_between_those_that_are_as_fast_within_noise() -> None:
    trials = equals((0.5, 2.1), (0.3, 2.0), (0.4, 1.9))
    noisy = [completed(n, 0.9, 10, 0.02, loss=loss, latency_ms=ms, latency_ms_noise=0.15) for n, (loss, ms) in
             enumerate([(0.2, 2.1), (0.3, 2.0), (0.4, 1.9)])]  # fmt: skip
    assert best_within(trials, Budget(), ACCURACY).number == 2
    assert best_within(noisy, Budget(), ACCURACY).number == 1
    assert [one.number for one in ranked_within(noisy, Budget(), ACCURACY)] == [1, 2, 0]


def test_a_cost_that_one_of_them_lacks_decides_nothing() -> None:
    trials = [*equals((0.5, 3.0), (0.4, 2.0)), completed(9, 0.9, 10, 0.02, loss=0.3)]
    assert best_within(trials, Budget(), ACCURACY).number == 9


@pytest.mark.parametrize(
    ("dense", "number"),
    [
        (0.9, 2),  # a lead of 0.01 may be luck: 0.9 − 0.01 will do, and 2 is the fastest there
        (0.8905, 2),  # the lead of 0.0195 is just what luck gives the best of twenty with an error of 0.0105
        (0.8, 1),  # no luck: within 0.0105 of the best
        (0.92, 1),  # no lead
        (None, 1),
    ],
)
def test_no_more_is_asked_for_than_the_dense_network_where_a_lead_over_it_may_be_luck(
    dense: float | None, number: int
) -> None:
    many = [completed(3 + n, 0.7, 20.0, 0.0105, latency_ms=3.0) for n in range(17)]
    trials = [
        completed(0, 0.91, 20.0, 0.0105, latency_ms=3.0),
        completed(1, 0.905, 20.0, 0.0105, latency_ms=2.0),
        completed(2, 0.8985, 20.0, 0.0105, latency_ms=1.0),
        *many,
    ]
    known = None if dense is None else replace(DENSE, values={**DENSE.values, "accuracy": dense})
    found = best_within(trials, Budget(), ACCURACY, dense=known)
    assert found is not None
    assert found.number == number
    assert ranked_within(trials, Budget(), ACCURACY, dense=known)[0] is found
    assert choose(trials, Budget(), ACCURACY, dense=known) is found
    assert is_lead_luck(trials, Budget(), ACCURACY, known) == (number == 2)


def test_without_an_error_no_lead_is_luck() -> None:
    trials = [completed(0, 0.95, 20.0, latency_ms=2.0), completed(1, 0.9, 20.0, latency_ms=1.0)]
    assert not is_lead_luck(trials, Budget(), ACCURACY, DENSE)
    assert best_within(trials, Budget(), ACCURACY, dense=DENSE) is trials[0]
    assert not is_lead_luck([], Budget(), ACCURACY, DENSE)


def test_the_lower_number_decides_between_equals_in_everything() -> None:
    trials = [completed(3, 0.9, 10, loss=0.5), completed(1, 0.9, 10, loss=0.5)]
    assert best_within(trials, Budget(), ACCURACY).number == 1


def test_choose_takes_the_best_within_budget() -> None:
    trials = [completed(0, 0.9, 30, loss=0.3), completed(1, 0.8, 10, loss=0.5), completed(2, 0.85, 19, loss=0.4)]
    assert choose(trials, Budget({"mflops": Limit(20)}), ACCURACY).number == 2
    assert choose(trials, Budget({"mflops": Limit(20)}), ACCURACY, limits=at_least(0.82)).number == 2
    assert choose(trials, Budget(), ACCURACY).number == 0


def test_choose_takes_the_cheapest_that_is_accurate_enough() -> None:
    trials = [completed(0, 0.9, 30), completed(1, 0.8, 10), completed(2, 0.85, 20), completed(3, 0.86, 20)]
    assert choose(trials, Budget(), ACCURACY, limits=at_least(0.82)).number == 3


def test_choose_without_a_completed_trial_says_what_to_run() -> None:
    with pytest.raises(NothingFitsError, match="run `autoprune search` first"):
        choose([failed(0), over_budget(1)], Budget(), ACCURACY)


@pytest.mark.parametrize(
    ("budget", "min_accuracy", "message"),
    [
        ({"mflops": Limit(5)}, None, r"5 MFLOPs; the nearest is trial 1 with accuracy 80\.00 %, mflops 10\.00 MFLOPs"),
        ({}, 0.95, r"accuracy ≥ 95\.00 %; the nearest is trial 0 with accuracy 90\.00 %"),
        ({"mflops": Limit(20)}, 0.89, r"20 MFLOPs and accuracy ≥ 89\.00 %; the nearest is trial 2"),
    ],
)
def test_choose_names_the_nearest_when_nothing_fits(
    budget: dict[str, Limit], min_accuracy: float | None, message: str
) -> None:
    trials = [failed(7), completed(0, 0.9, 30), completed(1, 0.8, 10), completed(2, 0.85, 19)]
    with pytest.raises(NothingFitsError, match=f"no trial of 3 completed ones meets {message}"):
        choose(trials, Budget(budget), ACCURACY, QualityLimits() if min_accuracy is None else at_least(min_accuracy))


def with_policies(trials: list[Trial], policies: int) -> list[Trial]:
    """Return the trials with so many policies in turn."""

    def policy(number: int) -> PruningPolicy:
        return PruningPolicy.uniform(number % policies / policies, "l1", names=["conv1"])

    return [replace(t, candidate=replace(t.candidate, policy=policy(t.number))) for t in trials]


@given(ledgers(), st.integers(1, 40), st.integers(1, 5), st.integers(1, 12))
def test_the_best_few_begin_with_the_choice_and_are_distinct(
    trials: list[Trial], limit: int, count: int, policies: int
) -> None:
    trials, budget = with_policies(trials, policies), Budget({"mflops": Limit(limit)})
    fitting = [t for t in trials if is_completed(t) and t.outcome.measurement["mflops"] <= limit]
    if not fitting:
        with pytest.raises(NothingFitsError):
            best_few(trials, budget, ACCURACY, count)
        return
    few = best_few(trials, budget, ACCURACY, count)
    assert few[0] is choose(trials, budget, ACCURACY)
    assert all(any(one is trial for trial in fitting) for one in few)
    assert len(few) == len({t.candidate.policy for t in few})
    assert len(few) == min(count, len({t.candidate.policy for t in fitting}))
    assert few == best_few(trials, budget, ACCURACY, 12)[:count]


def test_the_few_after_the_best_go_by_loss_within_noise_and_by_accuracy_beyond() -> None:
    trials = with_policies(
        [
            completed(0, 0.80, 10, 0.02, loss=0.1),
            completed(1, 0.89, 10, 0.02, loss=0.4),
            completed(2, 0.90, 10, 0.02, loss=0.5),
            completed(3, 0.85, 10, 0.02, loss=0.2),
            completed(4, 0.895, 10, 0.02, loss=0.3),
            completed(5, 0.95, 30, 0.02, loss=0.0),
        ],
        6,
    )
    budget = Budget({"mflops": Limit(20)})
    assert [trial.number for trial in best_few(trials, budget, ACCURACY, 9)] == [4, 1, 2, 3, 0]
    assert [trial.number for trial in best_few(trials, budget, ACCURACY, 9, limits=at_least(0.85))] == [4, 1, 2, 3]


def test_the_cheapest_that_is_accurate_enough_has_no_runner_up() -> None:
    trials = with_policies([completed(0, 0.9, 30), completed(1, 0.8, 10), completed(2, 0.85, 20)], 3)
    assert [trial.number for trial in best_few(trials, Budget(), ACCURACY, 3, limits=at_least(0.82))] == [2]


def test_the_same_policy_counts_once_by_its_better_trial() -> None:
    trials = with_policies([completed(0, 0.8, 10), completed(2, 0.9, 10), completed(1, 0.7, 10)], 2)
    assert [trial.number for trial in best_few(trials, Budget(), ACCURACY, 3)] == [2, 1]


def test_no_few_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        best_few([completed(0, 0.9, 30)], Budget(), ACCURACY, 0)


@pytest.mark.parametrize(("prefer", "number"), [("accuracy", 1), ("latency", 2), ("size", 3)])
def test_the_best_and_the_cheapest_that_is_good_enough_follow_what_is_preferred(
    prefer: Preference, number: int
) -> None:
    trials = [
        completed(0, 0.80, 9, noise=0.02, loss=0.1, latency_ms=0.1, size_mb=0.1),  # worse beyond noise
        completed(1, 0.90, 9, noise=0.02, loss=0.2, latency_ms=3.0, size_mb=3.0),
        completed(2, 0.89, 9, noise=0.02, loss=0.3, latency_ms=1.0, size_mb=2.0),
        completed(3, 0.89, 8, noise=0.02, loss=0.4, latency_ms=2.0, size_mb=1.0),
    ]
    assert best_few(trials, Budget({"mflops": Limit(20)}), ACCURACY, 1, prefer=prefer)[0].number == number
    cheapest = best_few(trials, Budget(), ACCURACY, 1, at_least(0.85), prefer)[0].number
    assert cheapest == {"accuracy": 3, "latency": 2, "size": 3}[prefer]  # by MFLOPs, by time, by bytes
