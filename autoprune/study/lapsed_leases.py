"""Which leases have run out: those of workers known to be dead, and of those not heard of for too long.

Judged from stored records alone, so that a study is read without Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from autoprune.core.json_values import parse_json
from autoprune.study.table_schema import CANDIDATE, RUNNING, WORKER
from autoprune.study.trial_format import StoredTrial
from autoprune.study.workers import WorkerName, known_dead

GRACE_SECONDS = 180.0  # three heartbeats


def worker_of(record: StoredTrial) -> WorkerName | None:
    """Return who was given a candidate; ``None`` if its process died while asking, or is of an older version."""
    if CANDIDATE not in record.user_attrs:
        return None
    return _worker_in(record.user_attrs[CANDIDATE])


@lru_cache(maxsize=1024)  # the same ones run at each ask
def _worker_in(text: str) -> WorkerName | None:
    written = parse_json(text).get(WORKER)
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
    running = [(record, worker_of(record)) for record in records if record.state.name == RUNNING]
    dead = known_dead(folder, {worker for _, worker in running if worker is not None})
    unclear = [
        record for record, worker in running if worker is not None and worker not in dead and not is_orphan(record)
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
    running = [record for record in records if record.state.name == RUNNING]
    lost = run_out(running, folder, lambda: silent(grace_seconds), lambda _: False)
    return {record.number for record in running} - {record.number for record in lost}
