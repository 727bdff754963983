"""A search seen from outside at one moment: how far it is, what it has found, how long it will take.

Nothing is written, and the lock is only tested, so the search is not disturbed. A search on another machine is seen by
the leases of its candidates in the storage that both share.
"""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.trial import Trial
from autoprune.loggers.console import RECENT, duration, how_it_ended
from autoprune.report.content.summary import KINDS, Summary, summarise
from autoprune.study.at_work import AtWork
from autoprune.study.lock import is_searched
from autoprune.study.manage.list import last_activity
from autoprune.study.screened_file import read_screening
from autoprune.study.view import StudyView, open_view

_TAIL = 8_000  # bytes of the log that are read for its last line


@dataclass(frozen=True)
class TimeLeft:
    """How long the trials to come will take, if they take as long as recent ones of this session.

    Attributes:
        seconds: from the median of recent trials.
        low: from their lower quartile.
        high: from their upper quartile.
    """

    seconds: float
    low: float
    high: float

    def describe(self) -> str:
        """Return the estimate in words.

        >>> TimeLeft(240, 200, 300).describe(), TimeLeft(240, 238, 242).describe()
        ('about 4 min 0 s left (3 min 20 s to 5 min 0 s)', 'about 4 min 0 s left')
        """
        spread = f" ({duration(self.low)} to {duration(self.high)})" if self.high > 1.1 * self.low else ""
        return f"about {duration(self.seconds)} left{spread}"


@dataclass(frozen=True)
class Snapshot:
    """What a watcher shows.

    Attributes:
        view: what is stored.
        summary: the front and the rest of the report, or ``None`` before the dense network is measured.
        searching: whether a process is searching the study now, here or on another machine.
        left: how long the trials to come will take; ``None`` before the first of this session.
        quiet_seconds: since the trials were last written to.
        doing: the last line of the study's log.
    """

    view: StudyView
    summary: Summary | None
    searching: bool
    left: TimeLeft | None
    quiet_seconds: float
    doing: str

    @property
    def workers(self) -> tuple[AtWork, ...]:
        """Return what is being evaluated now."""
        return tuple(one for one in self.view.at_work if one.is_leased)

    def worker_lines(self) -> list[str]:
        """Return what each worker is at, and since when; none if there is one alone."""
        if len(self.workers) < 2:
            return []
        now = datetime.datetime.now(datetime.UTC)
        return [
            f"{one.worker.shown if one.worker else 'a worker'}: trial {one.number} ({one.origin}), "
            f"for {duration(one.seconds(now))}"
            for one in self.workers
        ]

    @property
    def finished(self) -> int:
        """Return how many trials are finished."""
        return len(self.view.trials)

    @property
    def wanted(self) -> int:
        """Return how many trials the last session is to reach."""
        sessions = self.view.sessions
        return sessions[-1].trials if sessions else self.view.spec.trials

    @property
    def is_done(self) -> bool:
        """Return whether the study has all its trials, and no process is searching."""
        return self.finished >= self.wanted and not self.searching

    @property
    def counts(self) -> dict[str, int]:
        """Return outcome → how many trials ended so, without outcomes that none had."""
        counted = {kind: sum(isinstance(t.outcome, ended) for t in self.view.trials) for kind, ended in KINDS.items()}
        return {kind: count for kind, count in counted.items() if count}

    def progress_line(self) -> str:
        """Return how far the search is."""
        parts = [f"{count} {kind.replace('_', ' ')}" for kind, count in self.counts.items()]
        if self.view.running:
            parts.append(f"{self.view.running} {'running' if self.searching else 'interrupted'}")
        looked = f"; {self.screened} networks looked at without training" if self.screened else ""
        return f"{self.finished} of {self.wanted} trials" + (f": {', '.join(parts)}" if parts else "") + looked

    @property
    def screened(self) -> int:
        """Return how many networks were looked at without training, also while the study is prepared."""
        return len(read_screening(self.view.folder.screened).networks)

    def state_line(self) -> str:
        """Return whether anything is going on, and how long it will take."""
        if self.is_done:
            return "done"
        if not self.searching:
            when = duration(self.quiet_seconds)
            pace = f"; at its pace it would have {self.left.describe()}" if self.left else ""
            return f"no process is searching this study (last activity {when} ago); `autoprune search` resumes it{pace}"
        if self.finished >= self.wanted:
            return "searching"
        if self.left is None:
            return "searching; the time left will be known after the first trial of this session"
        return f"searching, {self.left.describe()}"

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; times are seconds."""
        left = self.left
        return {
            "study": self.view.spec.name,
            "finished": self.finished,
            "trials": self.wanted,
            "running": self.view.running,
            "screened": self.screened,
            "counts": {kind: self.counts.get(kind, 0) for kind in KINDS},
            "searching": self.searching,
            "workers": [one.to_json() for one in self.workers],
            "done": self.is_done,
            "seconds_left": {"median": left.seconds, "low": left.low, "high": left.high} if left else None,
            "seconds_since_activity": round(self.quiet_seconds, 1),
            "doing": self.doing,
            "report": self.summary.to_json() if self.summary else None,
        }


def take_snapshot(path: Path, storage: str | None = None, budget: Budget | None = None) -> Snapshot:
    """Read a study as it is at this moment.

    Args:
        path: the study's folder.
        storage: Optuna storage URL if the trials are not in it.
        budget: limits, absolute or relative to dense, for the best network; ``None``: those of the last session.

    Raises:
        StudyError: if there is no study, or it cannot be read.
    """
    view = open_view(path, storage)
    searching = is_searched(view.folder.lock) or view.is_leased
    now = datetime.datetime.now(datetime.UTC)
    quiet = max(0.0, (now - last_activity(view.folder)).total_seconds())
    summary = summarise(view, budget) if view.facts.dense else None
    shot = Snapshot(view, summary, searching, None, quiet, last_line(view.folder.log))
    asked = [one.seconds(now) for one in shot.workers]  # where others search, nothing here is written to
    running_for = min(quiet, *asked) if asked else 0.0
    sessions = {one.session for one in shot.workers} | {len(view.sessions) - 1}
    left = time_left(view.trials, sessions, shot.wanted - shot.finished, running_for, max(1, len(shot.workers)))
    return Snapshot(view, summary, searching, left, quiet, shot.doing)


def time_left(
    trials: Sequence[Trial], sessions: Collection[int], to_come: int, running_for: float = 0.0, workers: int = 1
) -> TimeLeft | None:
    """Return how long the trials to come will take, or ``None`` if none of these sessions has finished yet.

    Args:
        trials: finished ones, by number.
        sessions: numbers of those that run.
        to_come: trials that are not finished, the running one included.
        running_for: seconds that the running one has taken so far.
        workers: how many evaluate trials at the same time.
    """
    recent = [trial.total_seconds for trial in trials if trial.session in sessions][-RECENT:]
    if not recent or to_come < 1:
        return None
    low, middle, high = statistics.quantiles(recent, n=4) if len(recent) > 1 else [recent[0]] * 3
    low, high = max(low, min(recent)), min(high, max(recent))  # a quantile of few values lies outside them
    further = max(0, to_come - workers) / workers
    return TimeLeft(*(max(0.0, each - running_for) + each * further for each in (middle, low, high)))


def last_line(log: Path) -> str:
    """Return the last entry of a study's log, without its time; empty if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    entries = [line for line in lines if line[:2] == "20" and len(line.split(None, 2)) == 3]
    shown = entries[-1].split(None, 2)[2] if entries else ""
    return "".join(character if character.isprintable() else " " for character in shown)


def news(before: Snapshot | None, after: Snapshot) -> list[str]:
    """Return, for a display of lines, what has changed between two moments; everything if there is no earlier one."""
    known = {trial.number for trial in before.view.trials} if before else None
    fresh = [] if known is None else [trial for trial in after.view.trials if trial.number not in known]
    dense = after.summary.dense if after.summary else None
    lines = [f"trial {trial.number}: {how_it_ended(trial, dense, after.view.spec.qualities)}" for trial in fresh]
    if before is None or (before.progress_line(), before.searching) != (after.progress_line(), after.searching):
        lines.append(f"{after.progress_line()}; {after.state_line()}")
    if before is None or best_line(before) != best_line(after):
        lines.append(best_line(after))
    return lines


def best_line(shot: Snapshot) -> str:
    """Return the best network within the budget on one line."""
    from autoprune.report.content.terminal import describe

    if shot.summary is None:
        return f"preparing: {shot.doing}" if shot.doing else "preparing: the dense network has not been measured yet"
    best = shot.summary.best
    if best is None:
        return "no completed trial yet" if not shot.counts.get("completed") else "no completed trial meets the budget"
    limits = "within the budget" if shot.summary.budget.limits else "of all"
    return f"best {limits}: trial {best.number} ({best.origin}), {', '.join(describe(best, shot.summary))}"
