"""What a logger gets: the study at the start of a session, each trial with where the search then stands, and the end.

A logger is a callable without arguments that returns a :class:`Logger`, given by a name of
:data:`LOGGERS`, by an entry point of the group ``autoprune.loggers``, or as ``pkg.mod:attr``. It is
called before anything is trained, so that a missing library is an error then. ``autoprune.testing.check_logger`` checks
this contract.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import UsageError

HowEnded = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class LoggedStudy:
    """What a logger needs to know about a study.

    Attributes:
        name: the study's name.
        folder: the study's folder; a logger may keep files of its own in it.
        objectives: metric names, in order.
        budget: absolute limits of this session.
        dense: what was measured of the dense network on validation.
        wanted: how many trials the study is to reach.
        sampler: what proposes policies.
        settings: what gives the trials their meaning, by dotted key; it never changes within a study.
        versions: package → version.
        qualities: what networks are judged by, the leading metric first.
    """

    name: str
    folder: Path
    objectives: tuple[str, ...]
    budget: Budget
    dense: Measurement
    wanted: int
    sampler: str
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    qualities: tuple[Metric, ...] = (ACCURACY,)


@dataclass(frozen=True)
class Standing:
    """Where a search stands after a trial.

    Attributes:
        best: the best completed trial within the session's budget so far, ``None`` if there is none.
        hypervolume: share of the box between the dense network and perfection that the trials dominate, in [0, 1).
        counts: ``completed``, ``stopped``, ``over_budget``, ``failed``, ``untimed`` → how many trials ended so.
    """

    best: Trial | None
    hypervolume: float
    counts: Mapping[str, int]


class Logger(Protocol):
    """What follows a search; if it raises, it is switched off for the session, and the search goes on."""

    def began(self, study: LoggedStudy, stored: Sequence[Trial]) -> Collection[int]:
        """Begin a session.

        Args:
            study: what is searched.
            stored: the trials that the study holds, by number.

        Returns:
            The numbers of the trials that are logged already; the others follow next, in order.
        """
        ...  # pragma: no cover

    def told(self, trial: Trial, standing: Standing) -> None:
        """Log a trial that is stored."""
        ...  # pragma: no cover

    def ended(self, how: HowEnded) -> None:
        """End the session: close files and connections. Not called if the process is killed."""
        ...  # pragma: no cover


class Observer(Protocol):
    """What follows a search trial by trial; a display implements this."""

    def asked(self, candidate: Candidate) -> None:
        """Show a candidate before it is evaluated."""
        ...  # pragma: no cover

    def phase(self, name: str) -> None:
        """Show that a phase of the evaluation begins."""
        ...  # pragma: no cover

    def told(self, trial: Trial) -> None:
        """Show a trial after it is stored."""
        ...  # pragma: no cover


class Display(Observer, Protocol):
    """What shows a whole run, its preparation included."""

    def say(self, message: str) -> None:
        """Show a sentence about what is going on."""
        ...  # pragma: no cover

    def warn(self, message: str) -> None:
        """Show a sentence that should stay in sight."""
        ...  # pragma: no cover

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Show that the search begins, with what is stored already."""
        ...  # pragma: no cover


def missing_library(name: str, error: ImportError) -> UsageError:
    """Return the error for a logger whose library cannot be imported; its extra has the logger's name."""
    return UsageError(
        f"logging to {name} needs a library that cannot be imported ({error}); install it with "
        f"`pip install 'autoprune[{name}]'`, or leave {name} out of --log (`--log none` for no logger)"
    )
