"""Units, directions, limits and budgets."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, metric
from autoprune.errors import BudgetError, UnknownNameError

DENSE = Measurement({"mflops": 40.0, "mparams": 0.25, "latency_ms": 2.0})
COSTS = sorted(name for name, known in METRICS.items() if known.is_cost)

finite = st.floats(allow_nan=False, allow_infinity=False)
absolute = st.builds(Limit, st.floats(1e-300, 1e300))
relative = st.builds(Limit, st.floats(1e-300, 1, exclude_max=True), st.just(True))
budgets = st.builds(Budget, st.dictionaries(st.sampled_from(COSTS), absolute | relative))
values = st.dictionaries(st.sampled_from(sorted(METRICS)), finite)
measurements = st.builds(Measurement, values, values, st.lists(st.text()).map(tuple))


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("50", "mflops", Limit(50.0)),
        (50, "mflops", Limit(50.0)),
        (0.5, "latency_ms", Limit(0.5)),
        ("50M", "mflops", Limit(50.0)),
        ("50 M", "mparams", Limit(50.0)),
        ("500k", "mparams", Limit(0.5)),
        ("500K", "mflops", Limit(0.5)),
        ("20M", "nonzero_mflops", Limit(20.0)),
        ("500k", "nonzero_mparams", Limit(0.5)),
        ("1.2G", "mflops", Limit(1200.0)),
        ("1e2", "size_mb", Limit(100.0)),
        (".5", "size_mb", Limit(0.5)),
        ("40%", "size_mb", Limit(0.4, True)),
        (" 99.9 % ", "latency_ms", Limit(0.999, True)),
    ],
)
def test_a_limit_is_read_in_the_units_of_its_metric(text: str | float, name: str, expected: Limit) -> None:
    assert Limit.parse(text, name) == expected


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("text", ["", "0", "0%", "-5", "100%", "140%", "fifty", "5 ms", "nan", "inf", "1e999", "%"])
def test_a_malformed_limit_is_refused_with_its_name_and_text(text: str, name: str) -> None:
    with pytest.raises(BudgetError, match=f"budget {name}: '{text}' is neither") as caught:
        Limit.parse(text, name)
    assert "50 or 40%" in str(caught.value)


@pytest.mark.parametrize("name", ["latency_ms", "size_mb"])
def test_suffixes_are_for_counts_only(name: str) -> None:
    with pytest.raises(BudgetError):
        Limit.parse("50M", name)


@pytest.mark.parametrize(("limit", "shown"), [(Limit(0.4, True), "40%"), (Limit(50.0), "50"), (Limit(0.5), "0.5")])
def test_a_limit_is_shown_as_it_would_be_written(limit: Limit, shown: str) -> None:
    assert str(limit) == shown
    assert Limit.parse(str(limit), "mflops") == limit


@given(budgets)
def test_a_budget_survives_json_to_the_last_bit(budget: Budget) -> None:
    assert Budget.parse(json.loads(json.dumps(budget.to_json()))) == budget


def test_none_is_no_limit() -> None:
    assert Budget.parse({"mflops": "50", "latency_ms": None}) == Budget({"mflops": Limit(50.0)})


@pytest.mark.parametrize("name", ["accuracy", "loss", "mflop"])
def test_only_costs_can_be_budgeted(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"no metric to budget named '{name}'"):
        Budget.parse({name: "50"})


def test_a_relative_budget_resolves_to_the_dense_networks_share() -> None:
    resolved = Budget.parse({"mflops": "40%", "latency_ms": "1.5"}).resolve(DENSE)
    assert resolved == Budget({"mflops": Limit(16.0), "latency_ms": Limit(1.5)})


def test_resolving_twice_changes_nothing() -> None:
    resolved = Budget.parse({"mflops": "40%"}).resolve(DENSE)
    assert resolved.resolve(DENSE) == resolved


def test_a_budget_that_dense_meets_is_refused_with_what_dense_has() -> None:
    with pytest.raises(BudgetError, match=r"nothing to do: the dense network has 40\.00 MFLOPs.* budget of 50 MFLOPs"):
        Budget.parse({"mflops": "50"}).resolve(DENSE)


def test_one_limit_below_dense_is_something_to_do() -> None:
    Budget.parse({"mflops": "50", "mparams": "0.1"}).resolve(DENSE)


def test_an_empty_budget_admits_everything() -> None:
    assert Budget().resolve(DENSE) == Budget()
    assert Budget().admits(DENSE)


def test_violations_are_the_relative_excess_of_what_is_exceeded() -> None:
    budget = Budget({"mflops": Limit(32.0), "mparams": Limit(0.25), "latency_ms": Limit(3.0)})
    assert budget.violations(DENSE) == {"mflops": 0.25}
    assert not budget.admits(DENSE)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_a_budget_admits_exactly_what_is_not_above_the_limit(value: float, limit: float) -> None:
    admitted = Budget({"mflops": Limit(limit)}).admits(Measurement({"mflops": value}))
    assert admitted == (value <= limit) or value == pytest.approx(limit, rel=1e-11)


def test_a_metric_not_yet_measured_violates_nothing() -> None:
    budget = Budget({"mflops": Limit(32.0), "size_mb": Limit(1e-3)})
    assert budget.violations_of_known(DENSE) == {"mflops": 0.25}


def test_an_unreachable_budget_names_the_nearest_value() -> None:
    budget = Budget({"mflops": Limit(1.0), "mparams": Limit(0.5), "latency_ms": Limit(0.1)})
    smallest = Measurement({"mflops": 1.7, "mparams": 0.3})
    with pytest.raises(BudgetError, match=r"budget of 1 MFLOPs cannot be reached.*has 1\.70 MFLOPs; ask") as caught:
        budget.check_reachable(smallest)
    assert "parameters" not in str(caught.value)


@given(st.integers(1, 10**9))
def test_the_nearest_value_named_can_be_reached(macs: int) -> None:
    smallest = Measurement({"mflops": macs / 1e6})
    with pytest.raises(BudgetError) as caught:
        Budget({"mflops": Limit(macs / 2e6)}).check_reachable(smallest)
    named = re.search(r"search space has (\S+) MFLOPs", str(caught.value))
    Budget.parse({"mflops": named[1]}).check_reachable(smallest)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(), "no limit"),
        (Budget({"mflops": Limit(0.4, True)}), "40% of dense MFLOPs"),
        (Budget({"mflops": Limit(50), "latency_ms": Limit(2)}), "50 MFLOPs and 2 ms"),
    ],
)
def test_a_budget_is_described_in_words(budget: Budget, words: str) -> None:
    assert budget.describe() == words


@given(measurements)
def test_a_measurement_survives_json(measurement: Measurement) -> None:
    assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["values", "stderr"])
def test_a_measurement_refuses_what_is_not_finite(where: str, bad: float) -> None:
    with pytest.raises(ValueError, match=r"measurement .*loss is -?(nan|inf)"):
        Measurement(**{"values": {}, where: {"loss": bad}})


def test_a_merged_measurement_has_both_and_the_second_wins() -> None:
    first = Measurement({"mflops": 1.0, "loss": 2.0}, {"loss": 0.1}, ("norms",))
    second = Measurement({"loss": 3.0, "accuracy": 0.5}, {"loss": 0.2}, ("bias",))
    assert first.merged(second) == Measurement(
        {"mflops": 1.0, "loss": 3.0, "accuracy": 0.5}, {"loss": 0.2}, ("norms", "bias")
    )
    assert (first.error("loss"), first.error("mflops")) == (0.1, 0.0)


@pytest.mark.parametrize("known", METRICS.values(), ids=lambda known: known.name)
def test_nothing_is_worse_than_the_worst(known: object) -> None:
    assert known is METRICS[known.name]
    assert known.is_better(0.5, known.worst(0.4))
    assert not known.is_better(known.worst(0.4), 0.5)
    assert known.is_better(known.perfect(0.4), 0.5)
    assert not known.is_better(0.5, known.perfect(0.4))


@pytest.mark.parametrize("known", METRICS.values(), ids=lambda known: known.name)
@given(finite, finite)
def test_better_is_smaller_once_minimised(known: object, value: float, other: float) -> None:
    assert known.is_better(value, other) == (known.minimised(value) < known.minimised(other))


def test_a_difference_within_the_tolerance_is_not_better() -> None:
    accuracy = metric("accuracy")
    assert accuracy.is_better(0.92, 0.90, 0.01)
    assert not accuracy.is_better(0.905, 0.90, 0.01)


def test_accuracy_is_shown_in_per_cent_and_the_rest_in_its_unit() -> None:
    assert (metric("accuracy").show(0.9123), metric("mflops").show(40.8123)) == ("91.23 %", "40.81")


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no metric named 'mflop'; did you mean 'mflops'"):
        metric("mflop")
