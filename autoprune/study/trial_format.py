"""How a trial is written into Optuna's storage, and read back.

Optuna's own record of a trial (parameters, values, state) is what its samplers and dashboards read. What
Optuna has no room for stands beside it as two JSON attributes: ``candidate``, written when the ledger asks for it, and
``outcome``, written just before the trial ends.

    Completed → COMPLETE    Stopped → PRUNED    OverBudget, Failed, Untimed → FAIL with an outcome
    asked by a process that died → FAIL without an outcome: lost, and asked again
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from autoprune.core.budget import Budget
from autoprune.core.json_values import parse_json
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
    Untimed,
    outcome_from_json,
    outcome_to_json,
)
from autoprune.study.table_schema import CANDIDATE as CANDIDATE
from autoprune.study.table_schema import OUTCOME as OUTCOME
from autoprune.study.table_schema import WORKER

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

ASKED = "asked"  # key of when a candidate was given to its worker


class State(Protocol):
    """Whether a stored trial runs, or how it ended: Optuna's own ``TrialState``, or one of the same names."""

    @property
    def name(self) -> str:
        """Return ``RUNNING``, ``WAITING``, ``COMPLETE``, ``PRUNED`` or ``FAIL``."""
        ...  # pragma: no cover

    def is_finished(self) -> bool:
        """Return whether the trial has ended."""
        ...  # pragma: no cover


class Record(Protocol):
    """What is read here of a stored trial: Optuna's own ``FrozenTrial``, or less of it."""

    @property
    def number(self) -> int:
        """Return Optuna's number of the trial."""
        ...  # pragma: no cover

    @property
    def state(self) -> State:
        """Return whether it runs, or how it ended."""
        ...  # pragma: no cover

    @property
    def user_attrs(self) -> Mapping[str, Any]:
        """Return the attributes, ours among them."""
        ...  # pragma: no cover


@dataclass(frozen=True)
class StoredTrial:
    """What autoprune reads of a stored trial: Optuna's number and state, and our attributes."""

    number: int
    state: State
    user_attrs: Mapping[str, Any]


class TrialPlace(NamedTuple):
    """Where a trial is stored: its id in the storage, and Optuna's number of it in its study."""

    trial_id: int
    number: int


class Asked(NamedTuple):
    """A candidate as it was given out: with the run it was given to."""

    candidate: Candidate
    session: int


@dataclass(frozen=True)
class NewTrial:
    """What is stored of a trial when it begins.

    Attributes:
        params: a value for every distribution.
        distributions: name → where its value comes from; the same for every trial of a study, which is not checked.
        user_attrs: what is stored beside the parameters, as JSON.
        system_attrs: what a sampler of Optuna's wants to find there, as JSON.
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any] = field(default_factory=dict)

    def internal_values(self) -> dict[str, float]:
        """Return every parameter as Optuna stores it.

        Raises:
            ValueError: if one lies outside its distribution.
        """
        inner = {name: space.to_internal_repr(self.params[name]) for name, space in self.distributions.items()}
        outside = [name for name, value in inner.items() if not self.distributions[name]._contains(value)]
        if outside:
            name = outside[0]
            raise ValueError(f"{name!r} is {self.params[name]!r}, outside of {self.distributions[name]}")
        return inner


@dataclass(frozen=True)
class TrialEnd:
    """What is stored of a trial when it ends.

    Attributes:
        state: that it ends in.
        values: of the objectives, all finite; ``None`` if it has none.
        user_attrs: what is stored with it, as JSON.
    """

    state: TrialState
    values: Sequence[float] | None
    user_attrs: Mapping[str, Any]


def candidate_record(candidate: Candidate, session: int, worker: str = "") -> str:
    """Return the JSON that is written for a candidate when it begins, with the session and worker it is given to."""
    return json.dumps(
        {
            "number": candidate.number,
            "seed": candidate.seed,
            "origin": candidate.origin,
            "budget": candidate.budget.to_json(),
            "policy": json.loads(candidate.policy.to_json()),
            "session": session,
            **({WORKER: worker, ASKED: datetime.datetime.now(datetime.UTC).isoformat()} if worker else {}),
        }
    )


def outcome_record(outcome: Outcome, seconds: Mapping[str, float]) -> str:
    """Return the JSON that is written just before a trial ends."""
    return json.dumps({"outcome": outcome_to_json(outcome), "seconds": {k: round(v, 6) for k, v in seconds.items()}})


def read_candidate(record: Record) -> Candidate | None:
    """Return the candidate of a record, or ``None`` if its process died while asking."""
    if CANDIDATE not in record.user_attrs:
        return None
    return _candidate(parse_json(record.user_attrs[CANDIDATE]))


def _candidate(data: Mapping[str, Any]) -> Candidate:
    return Candidate(
        data["number"],
        PruningPolicy.from_json(data["policy"]),
        data["seed"],
        data["origin"],
        Budget.parse(data["budget"]),
    )


def read_trial(record: Record) -> Trial | None:
    """Return a finished trial, or ``None`` for one that is running or lost."""
    if CANDIDATE not in record.user_attrs or not record.state.is_finished() or OUTCOME not in record.user_attrs:
        return None
    return finished_trial(record.user_attrs[CANDIDATE], record.user_attrs[OUTCOME])


def finished_trial(candidate: str, outcome: str) -> Trial:
    """Return the trial of what :func:`candidate_record` and :func:`outcome_record` wrote."""
    return told_trial(asked_in(candidate), outcome)


def asked_in(text: str) -> Asked:
    """Return what :func:`candidate_record` wrote."""
    data = parse_json(text)
    return Asked(_candidate(data), int(data["session"]))


def told_trial(asked: Asked, outcome: str) -> Trial:
    """Return the trial of a candidate and what :func:`outcome_record` wrote."""
    told = parse_json(outcome)
    return Trial(asked.candidate, outcome_from_json(told["outcome"]), _seconds(told["seconds"]), asked.session)


def _seconds(stored: Mapping[str, Any]) -> dict[str, float]:
    """Return phase → seconds.

    Raises:
        ValueError: if one is no finite number.
    """
    spent = {str(phase): float(seconds) for phase, seconds in stored.items()}
    if not all(map(math.isfinite, spent.values())):
        raise ValueError(f"seconds by phase are {spent}")
    return spent


def outcome_of(record: Record) -> Outcome:
    """Return the outcome that was written for a record, told or not."""
    return outcome_from_json(parse_json(record.user_attrs[OUTCOME])["outcome"])


def read_trials(records: Sequence[Record]) -> list[Trial]:
    """Return every finished trial by number."""
    found = [trial for record in records if (trial := read_trial(record)) is not None]
    return sorted(found, key=lambda trial: trial.number)


def told_as(outcome: Outcome, objectives: Sequence[str]) -> tuple[TrialState, list[float] | None]:
    """Return the state and the objective values under which Optuna learns of an outcome."""
    from optuna.trial import TrialState

    match outcome:
        case Completed(measurement):
            return TrialState.COMPLETE, [measurement[name] for name in objectives]
        case Stopped():
            return TrialState.PRUNED, None
        case OverBudget() | Failed() | Untimed():
            return TrialState.FAIL, None


def trial_end(outcome: Outcome, seconds: Mapping[str, float], objectives: Sequence[str]) -> TrialEnd:
    """Return what is stored of an outcome."""
    state, values = told_as(outcome, objectives)
    return TrialEnd(state, values, {OUTCOME: outcome_record(outcome, seconds)})


def directions(objectives: Sequence[str]) -> list[StudyDirection]:
    """Return Optuna's direction of each objective."""
    from optuna.study import StudyDirection

    return [StudyDirection.MAXIMIZE if METRICS[name].goal == "max" else StudyDirection.MINIMIZE for name in objectives]
