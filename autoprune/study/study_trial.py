"""A stored trial as a program sees it that looks at a study from Python."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Trial, kind_of


@dataclass(frozen=True)
class StudyTrial:
    """A trial of a study.

    Attributes:
        number: of the trial.
        origin: where its policy comes from: ``"baseline:uniform"``, ``"guided:lower"`` …
        outcome: ``"completed"``, ``"stopped"``, ``"over_budget"`` or ``"failed"``.
        policy: what it prunes.
        measurement: what was measured of it; empty if it failed.
    """

    number: int
    origin: str
    outcome: str
    policy: PruningPolicy
    measurement: Measurement

    @classmethod
    def of(cls, trial: Trial) -> StudyTrial:
        """Return a stored trial as a program sees it."""
        measured = getattr(trial.outcome, "measurement", Measurement({}))
        return cls(trial.number, trial.candidate.origin, kind_of(trial.outcome), trial.candidate.policy, measured)

    def __getitem__(self, metric: str) -> float:
        return self.measurement[metric]

    def to_dict(self) -> JsonObject:
        """Return plain types, as JSON holds them: a column of its own for each metric."""
        errors = {f"{name}_stderr": value for name, value in self.measurement.stderr.items()}
        return {
            **{"number": self.number, "origin": self.origin, "outcome": self.outcome},
            **self.measurement.values,
            **errors,
            "policy": self.policy.to_json(),
        }
