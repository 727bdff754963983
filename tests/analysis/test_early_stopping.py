"""Who is stopped at a rung, who never is, and how the rule is checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.analysis.early_stopping import (
    CHECK_EVERY,
    EarlyStopper,
    GoOn,
    Look,
    RunToCheck,
    Stop,
    forecast,
    peers_of,
    rank_agreement,
)
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, Stopped, Trial

RUNG: Look = "recalibrated_loss"
EXACT = Measurement({"mflops": 50.0, "mparams": 0.4})
BUDGET = Budget.parse({"mflops": 50})
finals = st.floats(0.01, 5.0)
pairs = st.lists(st.tuples(finals, finals), min_size=8, max_size=30)


def asked(number: int = 99, origin: str = "sampler:tpe", budget: Budget = BUDGET) -> Candidate:
    return Candidate(number, PruningPolicy(), 0, origin, budget)


def ended(number: int, outcome: Outcome) -> Trial:
    return Trial(asked(number), outcome, {}, 0)


def completed(number: int, at_rung: float, final: float, mflops: float = 50.0, spared: str = "") -> Trial:
    values = {"mflops": mflops, "mparams": 0.4, "loss": final, RUNG: at_rung}
    return ended(number, Completed(Measurement(values), spared=spared))


def good_peers(count: int = 10, noise: float = 0.0) -> list[Trial]:
    """Return trials whose final loss is a fifth of their loss at the rung."""
    return [completed(n, 1 + 0.1 * n, (0.2 + 0.02 * n) * math.exp(noise * (-1) ** n)) for n in range(count)]


def test_the_clearly_bad_is_stopped_with_its_reason() -> None:
    verdict = EarlyStopper(asked(), good_peers()).decide(RUNG, 8.0, EXACT)
    assert verdict == Stop(
        "loss 8.0000 after recalibration foretells 1.6000 at the end, 1.6000 at best; the best of 10 peers "
        "within its budget has 0.2000"
    )


def test_who_is_as_good_as_the_best_goes_on() -> None:
    for loss in (0.01, 0.9, 1.0):
        assert EarlyStopper(asked(), good_peers()).decide(RUNG, loss, EXACT) == GoOn()


def test_two_deviations_are_given_to_its_favour() -> None:
    """The line foretells 0.2 · e^x for 1 · e^x; peers lie ±0.1 around it in logarithms, so s is about 0.11."""
    peers = good_peers(10, noise=0.1)
    found = forecast([1 + 0.1 * n for n in range(10)], [t.outcome.measurement["loss"] for t in peers], 3.0)  # type: ignore[union-attr]
    assert found is not None
    assert 0.15 < math.log(found.expected / found.at_best) < 0.3
    assert EarlyStopper(asked(), peers).decide(RUNG, 1.15, EXACT) == GoOn()
    assert isinstance(EarlyStopper(asked(), peers).decide(RUNG, 3.0, EXACT), Stop)


@given(pairs, st.floats(0.001, 100))
def test_a_baseline_is_never_stopped(losses: list[tuple[float, float]], loss: float) -> None:
    trials = [completed(n, x, y) for n, (x, y) in enumerate(losses)]
    judge = EarlyStopper(asked(origin="baseline:uniform"), trials)
    assert all(judge.decide(RUNG, value, EXACT) == GoOn() for value in (loss, math.nan, math.inf))


@pytest.mark.parametrize(("count", "stops"), [(0, False), (7, False), (8, True)])
def test_seven_peers_are_too_few(count: int, stops: bool) -> None:
    assert isinstance(EarlyStopper(asked(), good_peers(count)).decide(RUNG, 100.0, EXACT), Stop) is stops


@given(pairs, st.floats(0.001, 1000))
def test_without_agreement_nobody_is_stopped(losses: list[tuple[float, float]], loss: float) -> None:
    at_rung, final = zip(*losses, strict=True)
    trials = [completed(n, x, y) for n, (x, y) in enumerate(losses)]
    verdict = EarlyStopper(asked(), trials).decide(RUNG, loss, EXACT)
    assert verdict == GoOn() or rank_agreement(at_rung, final) >= 0.5


def test_it_is_switched_off_and_on_again_as_agreement_changes() -> None:
    stream = np.random.RandomState(0)
    noise = [completed(n, 1 + float(x), 0.2 + 0.1 * float(y)) for n, (x, y) in enumerate(stream.rand(12, 2))]
    assert EarlyStopper(asked(), noise).decide(RUNG, 100.0, EXACT) == GoOn()
    assert isinstance(EarlyStopper(asked(), noise + good_peers(40)).decide(RUNG, 100.0, EXACT), Stop)


@given(pairs, st.floats(0.001, 1000), st.floats(0, 10))
def test_a_better_look_never_turns_against_a_candidate(
    losses: list[tuple[float, float]], loss: float, worse: float
) -> None:
    judge = EarlyStopper(asked(), [completed(n, x, y) for n, (x, y) in enumerate(losses)])
    if judge.decide(RUNG, loss + worse, EXACT) == GoOn():
        assert judge.decide(RUNG, loss, EXACT) == GoOn()


@given(pairs)
def test_nobody_ahead_of_all_peers_is_stopped(losses: list[tuple[float, float]]) -> None:
    judge = EarlyStopper(asked(), [completed(n, x, y) for n, (x, y) in enumerate(losses)])
    assert judge.decide(RUNG, min(x for x, _ in losses), EXACT) == GoOn()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_at_once(loss: float) -> None:
    verdict = EarlyStopper(asked(), good_peers(1)).decide("midway_loss", loss, EXACT)
    assert verdict == Stop(f"its validation loss half-way through the fine-tune is {loss}")


def test_as_long_as_nothing_completed_it_goes_on_to_fail_with_the_cause() -> None:
    """A search ends when its first candidates all fail; stopped ones would hide that."""
    assert EarlyStopper(asked(), [ended(0, Failed("NonFiniteError", ""))]).decide(RUNG, math.nan, EXACT) == GoOn()


def test_a_loss_of_zero_is_no_trouble() -> None:
    trials = [*good_peers(9), completed(9, 0.0, 0.0)]
    assert isinstance(EarlyStopper(asked(), trials).decide(RUNG, 5.0, EXACT), GoOn | Stop)
    assert EarlyStopper(asked(), trials).decide(RUNG, 0.0, EXACT) == GoOn()


def test_losses_below_zero_are_foretold_by_a_straight_line() -> None:
    """A log-likelihood of a density may have any sign; shifting all losses must not change who is stopped."""
    peers = [completed(n, 0.1 * n - 5.0, 0.02 * n - 7.0) for n in range(10)]
    stopped = EarlyStopper(asked(), peers).decide(RUNG, 2.0, EXACT)
    assert isinstance(stopped, Stop)
    assert "foretells -5.6000" in stopped.reason
    assert EarlyStopper(asked(), peers).decide(RUNG, -5.0, EXACT) == GoOn()


# --- peers


def test_peers_are_completed_of_similar_cost_and_have_the_rung() -> None:
    exact = EXACT.merged(Measurement({RUNG: 1.0}))
    trials = [
        completed(0, 1.0, 0.1, mflops=45.0),
        completed(1, 1.1, 0.1, mflops=55.0),
        completed(2, 1.2, 0.1, mflops=44.9),
        completed(3, 1.3, 0.1, mflops=55.1),
        ended(4, Stopped("", exact)),
        ended(5, Failed("E", "")),
        ended(6, Completed(EXACT.merged(Measurement({"loss": 0.1})))),
    ]
    assert [m[RUNG] for m in peers_of(trials, RUNG, BUDGET, EXACT)] == [1.0, 1.1]
    assert peers_of(trials, "midway_loss", BUDGET, EXACT) == []


def test_similar_is_meant_in_the_tightest_limit_that_is_known_exactly() -> None:
    budget = Budget.parse({"mflops": 100, "mparams": 0.41, "latency_ms": 0.001})
    other = completed(0, 1.0, 0.1, mflops=90.0)
    assert len(peers_of([other], RUNG, budget, EXACT)) == 1  # both have 0.4 M parameters
    assert peers_of([other], RUNG, Budget(), EXACT) == []  # and 50 is not 90


def timed(number: int, at_rung: float, final: float, latency_ms: float, mflops: float = 50.0) -> Trial:
    values = {"mflops": mflops, "loss": final, RUNG: at_rung, "latency_ms": latency_ms}
    return ended(number, Completed(Measurement(values)))


@pytest.mark.parametrize(
    ("limits", "latency_ms", "mflops"),
    [
        ({"mflops": 50, "latency_ms": 5}, 10.0, 50.0),  # made to be faster than networks of the same MFLOPs
        ({"latency_ms": 9}, 10.0, 50.0),  # all that is known turned out too slow
        ({"mflops": 50}, 10.0, 54.0),  # what an earlier, larger budget left
    ],
)
def test_nobody_has_to_beat_what_misses_its_budget(limits: dict[str, float], latency_ms: float, mflops: float) -> None:
    candidate = asked(budget=Budget.parse(limits))
    outside = [timed(n, 1 + 0.1 * n, 0.2 + 0.02 * n, latency_ms, mflops) for n in range(10)]
    assert EarlyStopper(candidate, outside).decide(RUNG, 2.2, EXACT) == GoOn()
    inside = timed(10, 1.8, 0.36, 4.0)
    verdict = EarlyStopper(candidate, [*outside, inside]).decide(RUNG, 2.2, EXACT)
    assert isinstance(verdict, Stop), "what it has to beat"
    assert verdict.reason.endswith("the best of 1 peers within its budget has 0.3600")


def test_what_trades_loss_for_latency_without_a_limit_is_stopped_only_when_it_is_broken() -> None:
    faster = asked(origin="guided:faster")
    assert EarlyStopper(faster, good_peers()).decide(RUNG, 8.0, EXACT) == GoOn()
    assert isinstance(EarlyStopper(faster, good_peers()).decide(RUNG, math.nan, EXACT), Stop)
    limited = asked(origin="guided:faster", budget=Budget.parse({"mflops": 50, "latency_ms": 99}))
    peers = [timed(n, 1 + 0.1 * n, 0.2 + 0.02 * n, 9.0) for n in range(10)]
    assert isinstance(EarlyStopper(limited, peers).decide(RUNG, 8.0, EXACT), Stop)


# --- checks


def test_every_fifth_that_would_be_stopped_runs_to_its_end() -> None:
    trials = good_peers()
    verdicts = []
    for number in range(len(trials), len(trials) + 15):
        verdict = EarlyStopper(asked(number), tuple(trials)).decide(RUNG, 8.0, EXACT)
        assert verdict == EarlyStopper(asked(number), tuple(trials)).decide(RUNG, 8.0, EXACT)
        verdicts.append(type(verdict))
        if isinstance(verdict, Stop):
            trials.append(ended(number, Stopped(verdict.reason, EXACT)))
        elif isinstance(verdict, RunToCheck):
            trials.append(completed(number, 8.0, 1.6, spared=verdict.reason))
    assert verdicts == [Stop, Stop, Stop, Stop, RunToCheck] * 3
    assert CHECK_EVERY == 5


def test_a_check_that_could_not_be_made_is_made_by_the_next() -> None:
    stopped = [ended(n, Stopped("", EXACT)) for n in range(5)]
    assert isinstance(EarlyStopper(asked(), [*good_peers(), *stopped]).decide(RUNG, 8.0, EXACT), RunToCheck)


# --- arithmetic


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_rank_agreement_is_pearson_of_mean_ranks(table: list[tuple[int, int]]) -> None:
    def ranks(values: list[int]) -> list[float]:
        return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]

    one, other = ([float(row[k]) for row in table] for k in (0, 1))
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert rank_agreement(one, other) == 0.0
    else:
        expected = np.corrcoef(ranks([a for a, _ in table]), ranks([b for _, b in table]))[0, 1]
        assert rank_agreement(one, other) == pytest.approx(expected)


@given(st.lists(finals, min_size=8, max_size=20, unique=True), st.floats(0.2, 2), st.floats(0.1, 3), st.floats(1, 50))
def test_a_power_law_is_foretold_exactly(at_rung: list[float], power: float, factor: float, loss: float) -> None:
    final = [factor * x**power for x in at_rung]
    if max(at_rung) / min(at_rung) < 1.01:
        return
    found = forecast(at_rung, final, max(at_rung) + loss)
    assert found is not None
    assert found.expected == pytest.approx(factor * (max(at_rung) + loss) ** power, rel=1e-4)
