"""What is being evaluated at one moment, by whom, and since when, as it is stored."""

from __future__ import annotations

import datetime
from collections.abc import Sequence, Set
from dataclasses import dataclass

from autoprune.core.json_values import JsonObject, parse_json
from autoprune.study.table_schema import CANDIDATE, RUNNING, WORKER
from autoprune.study.trial_format import ASKED, StoredTrial
from autoprune.study.workers import WorkerName


@dataclass(frozen=True)
class AtWork:
    """A candidate that has no outcome yet.

    Attributes:
        number: of the candidate.
        origin: where it comes from.
        session: the run it belongs to.
        worker: who evaluates it; ``None`` in studies of versions that did not store it.
        since: when it was given out, UTC; ``None`` likewise.
        is_leased: whether that worker is alive, as far as its machine or its heartbeat tells.
    """

    number: int
    origin: str
    session: int
    worker: WorkerName | None
    since: datetime.datetime | None
    is_leased: bool = False

    def seconds(self, now: datetime.datetime) -> float:
        """Return for how long it has been evaluated, 0 where that is not known."""
        return 0.0 if self.since is None else max(0.0, (now - self.since).total_seconds())

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "trial": self.number,
            "origin": self.origin,
            "host": self.worker.host if self.worker else "",
            "process": self.worker.process if self.worker else None,
            "since": self.since.isoformat(timespec="seconds") if self.since else None,
        }


def at_work(stored: Sequence[StoredTrial], held: Set[int]) -> tuple[AtWork, ...]:
    """Return every candidate without an outcome, by number.

    Args:
        stored: every trial of a study.
        held: Optuna's numbers of those that a living worker evaluates.
    """
    running = [one for one in stored if one.state.name == RUNNING and CANDIDATE in one.user_attrs]
    read = (_read(one.user_attrs[CANDIDATE], one.number in held) for one in running)
    return tuple(sorted(read, key=lambda one: one.number))


def _read(text: str, is_leased: bool) -> AtWork:
    written = parse_json(text)
    worker, since = written.get(WORKER), written.get(ASKED)
    return AtWork(
        int(written["number"]),
        str(written["origin"]),
        int(written["session"]),
        WorkerName.parse(worker) if worker else None,
        datetime.datetime.fromisoformat(since) if since else None,
        is_leased,
    )
