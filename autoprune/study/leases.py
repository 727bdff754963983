"""Leases: the right of one worker to one candidate, kept alive by a heartbeat and lost without it.

Every minute a thread records a heartbeat of each candidate that this process evaluates, by the database's clock. A
lease has run out if its worker is known to be dead on this machine, or its last heartbeat is three minutes old, as of
a process that was stopped or a machine that is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autoprune.core.json_values import parse_json
from autoprune.study.table_schema import CANDIDATE, WORKER
from autoprune.study.trial_format import StoredTrial
from autoprune.study.workers import WorkerName, is_known_dead

GRACE_SECONDS = 180.0  # three heartbeats


def worker_of(record: StoredTrial) -> WorkerName | None:
    """Return who was given a candidate; ``None`` if its process died while asking, or is of an older version."""
    if CANDIDATE not in record.user_attrs:
        return None
    written = parse_json(record.user_attrs[CANDIDATE]).get(WORKER)
    return WorkerName.parse(written) if written else None


def run_out(
    records: Iterable[StoredTrial],
    folder: Path,
    silent: Callable[[], set[int]],
    is_orphan: Callable[[StoredTrial], bool],
) -> list[StoredTrial]:
    """Return those of the running trials whose worker has lost them.

    To be called where no other worker asks, so that one without a worker is one that died while asking.

    Args:
        records: any trials of a study.
        folder: of the study.
        silent: returns Optuna's numbers of the running trials without a heartbeat for so long; asked only if needed.
        is_orphan: whether this worker itself knows nothing of a trial that it was given.
    """
    running = [(record, worker_of(record)) for record in records if record.state == TrialState.RUNNING]
    unclear = [
        record
        for record, worker in running
        if worker is not None and not is_known_dead(folder, worker) and not is_orphan(record)
    ]
    late = silent() if unclear else set[int]()
    alive = {record.number for record in unclear if record.number not in late}
    return [record for record, _ in running if record.number not in alive]


def still_held(
    records: Iterable[StoredTrial], folder: Path, silent: Callable[[float], set[int]], grace_seconds: float
) -> set[int]:
    """Return Optuna's numbers of the running trials that a worker still evaluates, on whatever machine it is.

    Args:
        records: any trials of a study.
        folder: of the study, or a copy of it.
        silent: returns those without a heartbeat for so many seconds, by the database's clock.
        grace_seconds: after which a lease without a heartbeat has run out.
    """
    running = [record for record in records if record.state == TrialState.RUNNING]
    lost = run_out(running, folder, lambda: silent(grace_seconds), lambda _: False)
    return {record.number for record in running} - {record.number for record in lost}


class Heart:
    """A thread that keeps the leases of this process alive.

    Args:
        storage: holds the study.
        held: returns the ids of the trials that this process evaluates.
        grace_seconds: after which a lease without a heartbeat has run out; three fall into that time.
    """

    def __init__(self, storage: RDBStorage, held: Callable[[], list[int]], grace_seconds: float) -> None:
        self._storage, self._held, self._seconds = storage, held, grace_seconds / 3
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat; again, nothing happens."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, name="autoprune-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stopped.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._thread = None

    def _beat(self) -> None:
        while not self._stopped.wait(self._seconds):
            for trial_id in self._held():
                with suppress(Exception):  # the next beat may reach a database that is restarted now
                    self._storage.record_heartbeat(trial_id)
        with suppress(Exception):
            self._storage.remove_session()
