"""Several loggers beside one display: each first gets the trials it lacks, and one that raises is switched off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from autoprune.core.builtin_names import LOGGERS
from autoprune.core.notify import Notify, silent
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import AutopruneError, UsageError
from autoprune.loggers.protocol import HowEnded, LoggedStudy, Logger, Observer
from autoprune.loggers.standing_tracker import StandingTracker

METHODS = ("began", "told", "ended")


def make_logger(name: str) -> Logger:
    """Return a new logger by name.

    Raises:
        UsageError: if there is none of that name, its library is missing, or it is not a logger.
    """
    factory = LOGGERS.get(name)
    try:
        logger: Logger = factory()
    except AutopruneError:
        raise
    except Exception as error:  # a third party's logger may raise anything
        raise UsageError(
            f"logger {name!r} cannot be made: {type(error).__name__}: {error}; expected a class or function that is "
            f"called without arguments"
        ) from error
    lacking = [method for method in METHODS if not callable(getattr(logger, method, None))]
    if lacking:
        raise UsageError(
            f"logger {name!r} makes a {type(logger).__name__} without {', '.join(lacking)}; expected the methods "
            f"{', '.join(METHODS)}, as docs/how-to/log-trials.md describes them"
        )
    return logger


class Loggers:
    """The loggers of one session.

    Args:
        loggers: name → logger.
        warn: called with a sentence when a logger raises, once for each logger.
        notify: called with a sentence about what is going on.
    """

    def __init__(self, loggers: Mapping[str, Logger], warn: Notify, notify: Notify = silent) -> None:
        self._live, self._warn, self._say = dict(loggers), warn, notify
        self._course: StandingTracker | None = None
        self._held: dict[str, frozenset[int]] = {}

    @classmethod
    def named(cls, names: Sequence[str], warn: Notify, notify: Notify = silent) -> Loggers:
        """Return new loggers by name.

        Raises:
            UsageError: as :func:`make_logger`.
        """
        return cls({name: make_logger(name) for name in names}, warn, notify)

    @contextmanager
    def session(self, study: LoggedStudy, stored: Sequence[Trial]) -> Iterator[None]:
        """Return a context in which the loggers are open: they see its beginning, the trials they lack, and its end."""
        how: HowEnded = "failed"
        try:
            self._begin(study, stored)
            yield
            how = "finished"
        except KeyboardInterrupt:
            how = "interrupted"
            raise
        finally:
            for name, logger in self._each():
                if name in self._held:  # it began
                    with self._switching_off(name):
                        logger.ended(how)

    def told(self, trial: Trial) -> None:
        """Log a trial that was just stored to every logger."""
        if self._course is None or not self._live:
            return
        self._course.add(trial)
        standing = self._course.standing
        for name, logger in self._each():
            with self._switching_off(name):
                logger.told(trial, standing)

    def _begin(self, study: LoggedStudy, stored: Sequence[Trial]) -> None:
        """Begin the session, and log the stored trials that a logger lacks: those a killed process did not log."""
        if not self._live:
            return
        for name, logger in self._each():
            with self._switching_off(name):
                held = self._held[name] = frozenset(logger.began(study, stored))
                lacking = sum(trial.number not in held for trial in stored)
                if lacking:
                    self._say(f"logging the trials that {name} lacks: {lacking} of {len(stored)} stored trials")
        self._course = course = StandingTracker(study.objectives, study.budget, study.dense, study.qualities[0])
        for trial in stored:
            course.add(trial)
            for name, logger in self._each():
                if trial.number not in self._held[name]:
                    with self._switching_off(name):
                        logger.told(trial, course.standing)

    def _each(self) -> list[tuple[str, Logger]]:
        return list(self._live.items())

    @contextmanager
    def _switching_off(self, name: str) -> Iterator[None]:
        """Drop a logger once it raises: what merely watches a search of hours must not end it."""
        try:
            yield
        except Exception as error:  # a server that is away, a full disk, a third party's bug
            self._live.pop(name, None)
            self._warn(
                f"the logger {name} failed with {type(error).__name__}: {error}. It is switched off for this session "
                f"and the search goes on; the same command logs what is missing when it resumes the study"
            )


@dataclass(frozen=True)
class Watched:
    """A display that sees everything, with loggers that see the trials."""

    display: Observer
    loggers: Loggers

    def asked(self, candidate: Candidate) -> None:
        """Pass a candidate on to the display."""
        self.display.asked(candidate)

    def phase(self, name: str) -> None:
        """Pass a phase on to the display."""
        self.display.phase(name)

    def told(self, trial: Trial) -> None:
        """Pass a trial on to the display, then to the loggers."""
        self.display.told(trial)
        self.loggers.told(trial)
