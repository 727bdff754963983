"""The log of a study, ``search.log``: what its searches printed, with times, and the tracebacks of failed trials.

Each session is appended. Once the file would pass a million bytes it becomes ``search.log.1``, and what was that
``search.log.2``, so that a study never holds more than about three million bytes of log.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import Candidate, Failed, Trial
from autoprune.errors import AutopruneError
from autoprune.loggers.console import how_it_ended, seconds_by_phase
from autoprune.loggers.protocol import Display

LARGEST, OLDER = 1_000_000, 2  # bytes of a file, and how many older ones are kept
LONGEST = 20_000  # characters of one entry


class SessionLog:
    """A study's log, as a display without a screen; each session is appended.

    Args:
        path: the log.
        on_fault: called once with a sentence if the log cannot be written; the search goes on without it.
    """

    def __init__(self, path: Path, on_fault: Callable[[str], None]) -> None:
        self._handler = _Handler(path, on_fault)
        self._logger = logging.Logger("autoprune.session")  # of its own: no other logging is touched
        self._logger.addHandler(self._handler)
        self._wanted = self._finished = 0
        self._own: set[int] = set()
        self._dense: Measurement | None = None
        self._qualities: Sequence[Metric] = (ACCURACY,)

    def close(self) -> None:
        """Close the file."""
        self._handler.close()

    def say(self, message: str) -> None:
        """Log a sentence."""
        self._write(logging.INFO, message)

    def warn(self, message: str) -> None:
        """Log a warning."""
        self._write(logging.WARNING, message)

    def error(self, message: str) -> None:
        """Log why a session ended early."""
        self._write(logging.ERROR, message)

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Log that the search begins."""
        self._qualities = qualities
        self._finished, self._wanted, self._dense = len(trials), wanted, dense
        self.say(f"search begins: {len(trials)} of {wanted} trials are stored, budget {budget.describe()}")

    def asked(self, candidate: Candidate) -> None:
        """Log a candidate before it is evaluated."""
        self._own.add(candidate.number)
        self.say(f"trial {candidate.number} begins ({candidate.origin})")

    def phase(self, name: str) -> None:
        """Ignore the beginning of a phase; its seconds are logged with the trial."""

    def told(self, trial: Trial) -> None:
        """Log how a trial ended that was evaluated here, and the traceback of one that failed unexpectedly."""
        self._finished += 1
        if trial.number not in self._own:
            return  # another worker logs it
        ended = how_it_ended(trial, self._dense, self._qualities)
        self.say(
            f"[{self._finished}/{self._wanted}] trial {trial.number} {ended}; "
            f"{trial.total_seconds:.1f} s ({seconds_by_phase(trial)})"
        )
        if isinstance(trial.outcome, Failed):
            self.warn(f"trial {trial.number}: {trial.outcome.error}: {trial.outcome.message}\n{trial.outcome.trace}")

    def _write(self, level: int, message: str) -> None:
        shown = message.rstrip()
        cut = shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} … ({len(shown)} characters)"
        self._logger.log(level, cut.replace("\n", "\n    "))


class _Handler(RotatingFileHandler):
    """A file handler that rotates by size and reports only once that the file cannot be written."""

    def __init__(self, path: Path, on_fault: Callable[[str], None]) -> None:
        super().__init__(
            path, maxBytes=LARGEST, backupCount=OLDER, encoding="utf-8", delay=True, errors="backslashreplace"
        )
        self._path, self._on_fault, self._is_broken = path, on_fault, False
        formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
        formatter.converter = time.gmtime
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write an entry, unless writing has failed before."""
        if not self._is_broken:
            super().emit(record)

    def close(self) -> None:
        """Close the file; a disk that is full by then is reported as it is while writing."""
        try:
            super().close()
        except OSError:
            self._report()

    def handleError(self, record: logging.LogRecord) -> None:
        """Report that the log cannot be written."""
        self._report()

    def _report(self) -> None:
        if self._is_broken:
            return
        self._is_broken = True
        fault = sys.exc_info()[1]
        self._on_fault(f"the log {str(self._path)!r} cannot be written ({fault}); the search goes on without it")


@dataclass(frozen=True)
class Both:
    """A display that is also written to the log."""

    display: Display
    log: SessionLog

    def say(self, message: str) -> None:
        """Pass a sentence on."""
        self.display.say(message)
        self.log.say(message)

    def warn(self, message: str) -> None:
        """Pass a warning on."""
        self.display.warn(message)
        self.log.warn(message)

    def began(
        self,
        trials: list[Trial],
        wanted: int,
        budget: Budget,
        dense: Measurement,
        qualities: Sequence[Metric] = (ACCURACY,),
    ) -> None:
        """Pass the beginning on."""
        self.display.began(trials, wanted, budget, dense, qualities)
        self.log.began(trials, wanted, budget, dense, qualities)

    def asked(self, candidate: Candidate) -> None:
        """Pass a candidate on."""
        self.display.asked(candidate)
        self.log.asked(candidate)

    def phase(self, name: str) -> None:
        """Pass a phase on."""
        self.display.phase(name)
        self.log.phase(name)

    def told(self, trial: Trial) -> None:
        """Pass a trial on."""
        self.display.told(trial)
        self.log.told(trial)


@contextmanager
def logged(display: Display, path: Path, about: str) -> Iterator[Display]:
    """Return a context with a display that also writes to a log, the end of the session included.

    Args:
        display: what shows the session.
        path: the log.
        about: what the session is, for its first entry.
    """
    log = SessionLog(path, display.warn)
    log.say(f"session begins: {about}, process {os.getpid()}")
    try:
        yield Both(display, log)
        log.say("session ends")
    except KeyboardInterrupt:
        log.warn("interrupted")
        raise
    except AutopruneError as error:
        log.error(f"{type(error).__name__}: {error}")
        raise
    except BaseException:
        log.error(traceback.format_exc())
        raise
    finally:
        log.close()
