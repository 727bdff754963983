"""Candidates, the five ways they end, and trials.

A :class:`Candidate` can be evaluated alone and on another machine. Its :data:`Outcome` is a closed
sum: nothing is signalled by ``None``, a flag or a string.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy

KINDS = ("completed", "stopped", "over_budget", "failed", "untimed")
PICKED = "pick"  # origin of a network that was solved for a pick, and is measured without any fine-tune


@dataclass(frozen=True)
class Candidate:
    """A policy to be evaluated, with everything that its result depends on.

    Attributes:
        number: position in the study, from 0; the same when it is asked again after a crash.
        policy: what to prune.
        seed: seed of everything random in its evaluation.
        origin: where the policy comes from: ``"baseline:uniform"``, ``"sampler:tpe"`` …
        budget: the absolute limits it was made for.
    """

    number: int
    policy: PruningPolicy
    seed: int
    origin: str
    budget: Budget = field(default_factory=Budget)

    @property
    def is_baseline(self) -> bool:
        """Return whether this is a policy to compare with rather than a proposal of the search."""
        return self.origin.startswith("baseline:")

    @property
    def is_picked(self) -> bool:
        """Return whether a pick has solved for it: it was measured without any fine-tune, so nothing learns from it."""
        return self.origin == PICKED


@dataclass(frozen=True)
class Completed:
    """The outcome of a candidate that was pruned, fine-tuned, scored and timed.

    Attributes:
        measurement: what was measured of it.
        paired: what it made of each validation example, the text of :class:`PairedScores`; empty in trials of versions
            that did not store it.
        spared: why it would have been stopped early, if it ran to its end only to check that rule; empty otherwise.
        latency_host: name of the machine that timed it; empty in trials of versions that did not store it.
    """

    measurement: Measurement
    paired: str = ""
    spared: str = ""
    latency_host: str = ""


@dataclass(frozen=True)
class OverBudget:
    """The outcome of a candidate whose exact cost exceeds its budget; nothing was spent on it."""

    measurement: Measurement
    violations: Mapping[str, float]


@dataclass(frozen=True)
class Stopped:
    """The outcome of a candidate that was stopped early because it could no longer win."""

    reason: str
    measurement: Measurement


@dataclass(frozen=True)
class Failed:
    """The outcome of a candidate that could not be evaluated.

    Attributes:
        error: the exception's class name.
        message: what it said.
        trace: the traceback of an unexpected error, for the report of a bug; empty for a deliberate one.
    """

    error: str
    message: str
    trace: str = ""


@dataclass(frozen=True)
class Untimed:
    """The outcome of a candidate that was scored, and whose latency the machine that times has not given yet.

    It is on no front and is not picked; once it is timed, :meth:`timed` is its outcome.

    Attributes:
        reason: why it was not timed, in one line.
        measurement: what was measured of it, without a latency.
        paired: as of :class:`Completed`.
        spared: as of :class:`Completed`.
    """

    reason: str
    measurement: Measurement
    paired: str = ""
    spared: str = ""

    def timed(self, latency: HostLatency) -> Completed:
        """Return the outcome with its latency."""
        return Completed(
            self.measurement.merged(latency.measurement), self.paired, self.spared, latency_host=latency.host
        )


@dataclass(frozen=True)
class HostLatency:
    """How long a network takes, and on which machine.

    Attributes:
        measurement: ``latency_ms`` with its standard error.
        host: name of the machine.
    """

    measurement: Measurement
    host: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"measurement": self.measurement.to_json(), "host": self.host}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HostLatency:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        found = Measurement.from_json(data["measurement"])
        if set(found.values) != {"latency_ms"}:
            raise ValueError(f"a latency holds {sorted(found.values)}; expected latency_ms")
        return cls(found, str(data["host"]))


Outcome: TypeAlias = Completed | OverBudget | Stopped | Failed | Untimed


@dataclass(frozen=True)
class Trial:
    """A finished candidate, as the ledger stores it and the report reads it.

    Attributes:
        candidate: what was asked.
        outcome: how it ended.
        seconds: phase → seconds spent (``prune``, ``recalibrate``, ``rung``, ``finetune``, ``score``, ``latency``,
            ``store``, ``ask``, ``other``; ``solve`` of a trial that a pick solved for).
        session: number of the run that evaluated it, from 0.
    """

    candidate: Candidate
    outcome: Outcome
    seconds: Mapping[str, float]
    session: int

    @property
    def number(self) -> int:
        """Return the candidate's number."""
        return self.candidate.number

    @property
    def total_seconds(self) -> float:
        """Return the whole time of the trial."""
        return sum(self.seconds.values())


def completed_measurement(trial: Trial) -> Measurement | None:
    """Return what a completed trial measured, or ``None`` for any other outcome."""
    return trial.outcome.measurement if isinstance(trial.outcome, Completed) else None


def kind_of(outcome: Outcome) -> str:
    """Return an outcome's kind, one of :data:`KINDS`."""
    match outcome:
        case Completed():
            return "completed"
        case Stopped():
            return "stopped"
        case OverBudget():
            return "over_budget"
        case Failed():
            return "failed"
        case Untimed():
            return "untimed"


def outcome_to_json(outcome: Outcome) -> JsonObject:
    """Return plain types for JSON, with the kind of outcome under ``"kind"``."""
    match outcome:
        case Completed(measurement, paired, spared, host):
            texts = {"correct": paired, "spared": spared, "latency_host": host}
            known = {name: text for name, text in texts.items() if text}
            return {"kind": "completed", "measurement": measurement.to_json(), **known}
        case OverBudget(measurement, violations):
            return {"kind": "over_budget", "measurement": measurement.to_json(), "violations": dict(violations)}
        case Stopped(reason, measurement):
            return {"kind": "stopped", "reason": reason, "measurement": measurement.to_json()}
        case Failed(error, message, trace):
            return {"kind": "failed", "error": error, "message": message, "trace": trace}
        case Untimed(reason, measurement, paired, spared):
            known = {name: text for name, text in (("correct", paired), ("spared", spared)) if text}
            return {"kind": "untimed", "reason": reason, "measurement": measurement.to_json(), **known}


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Return the outcome that :func:`outcome_to_json` wrote.

    Raises:
        ValueError: if the kind is unknown.
    """
    match data["kind"]:
        case "completed":
            return Completed(
                Measurement.from_json(data["measurement"]),
                data.get("correct", ""),
                data.get("spared", ""),
                str(data.get("latency_host", "")),
            )
        case "over_budget":
            return OverBudget(Measurement.from_json(data["measurement"]), dict(data["violations"]))
        case "stopped":
            return Stopped(data["reason"], Measurement.from_json(data["measurement"]))
        case "failed":
            return Failed(data["error"], data["message"], data["trace"])
        case "untimed":
            found = Measurement.from_json(data["measurement"])
            return Untimed(str(data["reason"]), found, data.get("correct", ""), data.get("spared", ""))
        case other:
            raise ValueError(f"unknown outcome {other!r}; expected {', '.join(KINDS)}")
