"""What happens in a search, as a program is told: :class:`Event`, and the display that makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Candidate, Trial, completed_measurement, kind_of
from autoprune.loggers.protocol import Display

EventKind = Literal["note", "warning", "began", "asked", "phase", "trial"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: ``note`` or ``warning``, a sentence; ``began``, the search; ``asked``, a candidate that is evaluated
            next; ``phase``, of its evaluation; ``trial``, one that is finished and stored.
        text: in words.
        number: of the trial; ``None`` where there is none.
        done: trials that the study holds.
        wanted: trials that it is to reach.
        measurement: of a finished trial that completed; ``None`` otherwise.
    """

    kind: EventKind
    text: str
    number: int | None = None
    done: int = 0
    wanted: int = 0
    measurement: Measurement | None = None


class EventDisplay:
    """A display that tells a function, and shows nothing by itself.

    Args:
        tell: called with every event; what it raises ends the search, as Ctrl-C would.
        beside: a display that shows the same; ``None`` for none.
    """

    def __init__(self, tell: Callable[[Event], object], beside: Display | None = None) -> None:
        self._tell, self._done, self._wanted = tell, 0, 0
        self._number: int | None = None
        self._beside = beside

    def __enter__(self) -> EventDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave nothing behind."""

    def say(self, message: str) -> None:
        """Tell a sentence about what is going on."""
        if self._beside is not None:
            self._beside.say(message)
        self._send("note", message)

    def warn(self, message: str) -> None:
        """Tell a sentence that should stay in sight."""
        if self._beside is not None:
            self._beside.warn(message)
        self._send("warning", message)

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Tell that the search begins."""
        if self._beside is not None:
            self._beside.began(trials, wanted, budget, dense, qualities)
        self._done, self._wanted = len(trials), wanted
        self._send("began", f"searching {wanted - len(trials)} trials")

    def asked(self, candidate: Candidate) -> None:
        """Tell of a candidate before it is evaluated."""
        if self._beside is not None:
            self._beside.asked(candidate)
        self._number = candidate.number
        self._send("asked", f"trial {candidate.number}: {candidate.origin}", candidate.number)

    def phase(self, name: str) -> None:
        """Tell that a phase of the evaluation begins."""
        if self._beside is not None:
            self._beside.phase(name)
        self._send("phase", name, self._number)

    def told(self, trial: Trial) -> None:
        """Tell of a trial that is stored."""
        if self._beside is not None:
            self._beside.told(trial)
        self._done += 1
        text = f"trial {trial.number}: {kind_of(trial.outcome)}"
        self._send("trial", text, trial.number, completed_measurement(trial))

    def _send(self, kind: EventKind, text: str, number: int | None = None, measured: Measurement | None = None) -> None:
        self._tell(Event(kind, text, number, self._done, self._wanted, measured))
