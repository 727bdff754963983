"""What one of several workers says: lines of JSON on its standard output, which the command that started it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from autoprune.core.budget import Budget
from autoprune.core.json_values import parse_json
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Candidate, Trial
from autoprune.study.trial_format import candidate_record, finished_trial, outcome_record


class WorkerLines:
    """A display that writes a line of JSON for everything that happens.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> WorkerLines:
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave nothing behind."""

    def say(self, message: str) -> None:
        """Write a sentence."""
        self.send("say", message=message)

    def warn(self, message: str) -> None:
        """Write a sentence that should stay in sight."""
        self.send("warn", message=message)

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Write that the search begins."""
        known = [one.text for one in qualities]
        self.send("began", wanted=wanted, budget=budget.to_json(), dense=dense.to_json(), qualities=known)
        for trial in trials:
            self._trial("stored", trial)

    def asked(self, candidate: Candidate) -> None:
        """Write which candidate is evaluated next."""
        self.send("asked", number=candidate.number)

    def phase(self, name: str) -> None:
        """Write that a phase begins."""
        self.send("phase", name=name)

    def told(self, trial: Trial) -> None:
        """Write a trial that is stored."""
        self._trial("told", trial)

    def _trial(self, kind: str, trial: Trial) -> None:
        candidate = candidate_record(trial.candidate, trial.session)
        self.send(kind, candidate=candidate, outcome=outcome_record(trial.outcome, trial.seconds))

    def send(self, kind: str, **values: object) -> None:
        """Write one line."""
        self._stream.write(json.dumps({"kind": kind, **values}) + "\n")
        self._stream.flush()


@dataclass(frozen=True)
class WorkerLine:
    """One line of a worker, read.

    Attributes:
        kind: ``say``, ``warn``, ``began``, ``stored``, ``asked``, ``phase``, ``told``, ``error`` or ``ended``.
        values: what it says.
    """

    kind: str
    values: dict[str, Any]

    @classmethod
    def parse(cls, line: str) -> WorkerLine | None:
        """Return what a line says; ``None`` if it is none of ours, as what the user's own code printed."""
        try:
            read: Any = parse_json(line)
            return cls(str(read.pop("kind")), read)
        except (ValueError, KeyError, AttributeError, TypeError):
            return None

    @property
    def trial(self) -> Trial:
        """Return the trial of a line that tells one."""
        return finished_trial(self.values["candidate"], self.values["outcome"])
