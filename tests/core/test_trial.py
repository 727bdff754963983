"""Candidates, the four ways they end, and their JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import (
    Candidate,
    Completed,
    Failed,
    Outcome,
    OverBudget,
    Stopped,
    Trial,
    completed_measurement,
    outcome_from_json,
    outcome_to_json,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.dictionaries(st.sampled_from(sorted(METRICS)), finite)
measurements = st.builds(Measurement, values, values, st.lists(st.text()).map(tuple))
outcomes = st.one_of(
    st.builds(Completed, measurements, st.text()),
    st.builds(OverBudget, measurements, values),
    st.builds(Stopped, st.text(), measurements),
    st.builds(Failed, st.text(), st.text(), st.text()),
)


def trial_that(outcome: Outcome, origin: str = "sampler:tpe") -> Trial:
    return Trial(Candidate(7, PruningPolicy(), 0, origin), outcome, {"prune": 0.5, "score": 1.25}, 0)


@given(outcomes)
def test_json_gives_back_the_same_outcome(outcome: Outcome) -> None:
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


def test_a_trial_stored_before_hits_were_is_read() -> None:
    scored = Completed(Measurement({"accuracy": 0.9}))
    assert outcome_to_json(scored) == {"kind": "completed", "measurement": scored.measurement.to_json()}
    assert outcome_from_json(outcome_to_json(scored)).paired == ""  # type: ignore[union-attr]


def test_a_trial_stored_before_there_were_checks_is_read_as_none() -> None:
    plain = Completed(Measurement({"loss": 0.5}))
    assert "spared" not in outcome_to_json(plain)
    assert outcome_from_json(outcome_to_json(plain)) == plain
    assert outcome_to_json(Completed(plain.measurement, spared="hopeless"))["spared"] == "hopeless"


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown outcome 'lost'"):
        outcome_from_json({"kind": "lost"})


@given(outcomes)
def test_only_a_completed_trial_has_a_measurement_to_compare(outcome: Outcome) -> None:
    found = completed_measurement(trial_that(outcome))
    assert found == (outcome.measurement if isinstance(outcome, Completed) else None)


def test_a_trial_has_its_candidates_number_and_the_sum_of_its_seconds() -> None:
    trial = trial_that(Failed("E", "m"))
    assert (trial.number, trial.total_seconds) == (7, 1.75)


@pytest.mark.parametrize(("origin", "expected"), [("baseline:uniform", True), ("sampler:baseline", False)])
def test_a_baseline_is_told_by_its_origin(origin: str, expected: bool) -> None:
    assert trial_that(Failed("E", "m"), origin).candidate.is_baseline is expected
