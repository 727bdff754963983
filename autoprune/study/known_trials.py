"""What is known of a study's trials, taken in as it is stored: an ask costs the same at ten trials and at thousands.

What has ended never changes. So each time only those trials are read that are new, or ran when they were last seen and
run no longer, and each is parsed once.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from autoprune.core.trial import Candidate, Trial
from autoprune.study.trial_format import CANDIDATE, OUTCOME, Asked, StoredTrial, asked_in, told_trial
from autoprune.study.trial_rows import TrialRows


@dataclass(frozen=True)
class OpenTrial:
    """A trial that had not ended when it was last seen.

    Attributes:
        record: as it is stored.
        asked: what was given to a worker; ``None`` if its process died while asking, or asks now.
    """

    record: StoredTrial
    asked: Asked | None


class KnownTrials:
    """The trials of one study, as one worker has seen them.

    Attributes:
        next_number: of the candidate that would be proposed next.
    """

    def __init__(self) -> None:
        self.next_number = 0
        self._last = -1  # Optuna's number of the latest
        self._open: dict[int, OpenTrial] = {}  # by Optuna's number
        self._trials: list[Trial] = []
        self._told: set[int] = set()  # numbers of their candidates
        self._lost: dict[int, tuple[Candidate, list[int]]] = {}  # by number: with the Optuna's numbers of its records

    def take_in(self, rows: TrialRows) -> None:
        """Read what is new.

        Raises:
            SQLAlchemyError: if the database cannot be read.
            KeyError, TypeError, ValueError: if a record is damaged; the next call finds it again.
        """
        bare = [number for number, one in self._open.items() if one.asked is None]
        running = [number for number, one in self._open.items() if one.asked is not None]
        for record in rows.read(self._last, bare, running):
            self._file(record)

    def _file(self, record: StoredTrial) -> None:
        asked = self._asked(record)
        if not record.state.is_finished():
            self._open[record.number] = OpenTrial(record, asked)
        else:
            if asked is not None and OUTCOME in record.user_attrs:
                insort(self._trials, told_trial(asked, record.user_attrs[OUTCOME]), key=lambda trial: trial.number)
                self._told.add(asked.candidate.number)
            elif asked is not None:
                self._lost.setdefault(asked.candidate.number, (asked.candidate, []))[1].append(record.number)
            self._open.pop(record.number, None)
        if asked is not None:
            self.next_number = max(self.next_number, asked.candidate.number + 1)
        self._last = max(self._last, record.number)

    def _asked(self, record: StoredTrial) -> Asked | None:
        """Return what a record says was asked, parsed only if it was not before."""
        text, seen = record.user_attrs.get(CANDIDATE), self._open.get(record.number)
        if text is None:
            return None
        if seen is not None and seen.record.user_attrs.get(CANDIDATE) == text:
            return seen.asked
        return asked_in(text)

    @property
    def trials(self) -> list[Trial]:
        """Return every finished trial, by number."""
        return list(self._trials)

    @property
    def running(self) -> list[StoredTrial]:
        """Return the trials that run, by Optuna's number; those that a process died asking for, too."""
        found = (one.record for _, one in sorted(self._open.items()))
        return [record for record in found if record.state == TrialState.RUNNING]

    @property
    def pending(self) -> list[Candidate]:
        """Return the candidates that are being evaluated, or were when their worker died."""
        found = (one for _, one in sorted(self._open.items()) if one.record.state == TrialState.RUNNING)
        return [one.asked.candidate for one in found if one.asked is not None]

    @property
    def lost(self) -> list[Candidate]:
        """Return the candidates that were asked, never finished and are not running, by number."""
        if not self._lost:
            return []
        alive = self._told | {one.asked.candidate.number for one in self._open.values() if one.asked is not None}
        return [self._lost[number][0] for number in sorted(self._lost.keys() - alive)]

    def records_of_lost(self, number: int) -> Sequence[int]:
        """Return Optuna's numbers of the trials in which a candidate was lost."""
        return tuple(self._lost[number][1]) if number in self._lost else ()
