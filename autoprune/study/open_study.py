"""A study as one of its workers has it open: the storage, its locks, and what dead workers left in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.trial import TrialState

from autoprune.errors import StudyError
from autoprune.study import trial_format
from autoprune.study.asking import alone, making_tables, serves_many
from autoprune.study.lapsed_leases import run_out, worker_of
from autoprune.study.lock import share_lock
from autoprune.study.resume import end_running, lost_candidates
from autoprune.study.same_place import SamePlace
from autoprune.study.storage import open_storage, reporting_damage, reporting_faults, tried_again
from autoprune.study.storage_url import without_password
from autoprune.study.trial_rows import Follower, open_rows
from autoprune.study.workers import Worker, WorkerName, forget_dead, workers_here

T = TypeVar("T")
_ASKING = "asking.lock"


class OpenStudy:
    """A stored study that this process works on.

    Args:
        url: Optuna storage URL.
        name: the study's name in that storage.
        objectives: metric names, in order.
        lock: file that workers hold locked together; others lie beside it.
        grace_seconds: after which a candidate without a heartbeat is given to another worker.

    Attributes:
        study: of Optuna's.
        study_id: of it in the storage.
        storage: holds it.
        rows: its trials, as they are written.
        follower: reads them.
        cache: of what they say.
        place: where the study was when it was opened.
        reclaimed: how many candidates waited to be asked again when it was opened.

    Raises:
        StudyLockedError: if another process removes the study.
        StudyError: if the storage cannot be opened, or serves one machine only and another one searches the study.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[str], lock: Path, grace_seconds: float) -> None:
        self.url, self.grace_seconds = url, grace_seconds
        self._name, self._objectives, self._folder = name, tuple(objectives), lock.parent
        self.cache, self._is_open = trial_format.RecordCache(), False
        self._lock = share_lock(lock)
        try:
            self._worker = Worker(self._folder)
        except BaseException:
            self._lock.release()
            raise
        try:
            self._open(lock)
        except BaseException:
            self.close()
            raise

    def _open(self, lock: Path) -> None:
        with alone(self._folder / _ASKING, None, self._name), making_tables(self.url):  # one process makes them
            self.storage = open_storage(self.url)
            self._is_open = True
            with reporting_faults(self.url):
                self.study = optuna.create_study(
                    storage=self.storage,
                    study_name=self._name,
                    directions=trial_format.directions(self._objectives),
                    load_if_exists=True,
                )
        with reporting_faults(self.url):
            self.study_id = self.storage.get_study_id_from_name(self._name)
            self.rows = open_rows(self.storage, self.study_id)
            self.follower = Follower(self.rows)
            self.place = SamePlace(lock, self.url, self.storage, self.study_id, self._name)
            with self.alone():
                ended, stored = self.reclaim()
                self._check_one_machine(stored)
        numbers = {found.number for record in ended if (found := self.cache.candidate(record)) is not None}
        left = [candidate for candidate in lost_candidates(stored, self.cache) if candidate.number not in numbers]
        self.reclaimed = len(ended) + len(left)
        forget_dead(self._folder)

    def close(self) -> None:
        """Let go of the study and its storage; others see this worker gone."""
        if self._is_open:
            self.storage.remove_session()
            self.storage.engine.dispose()
        self._worker.end()
        self._lock.release()

    @property
    def worker(self) -> WorkerName:
        """Return who this is."""
        return self._worker.name

    @property
    def others(self) -> list[WorkerName]:
        """Return the other workers: those of this folder, and those elsewhere that evaluate a candidate now."""
        here = workers_here(self._folder)
        with reporting_damage(self.url):
            running = self.tried(lambda _: running_of(self.follower.trials()))
        elsewhere = [worker for record in running if (worker := worker_of(record)) is not None]
        return sorted({*here, *elsewhere} - {self.worker}, key=str)

    def tried(self, act: Callable[[bool], T]) -> T:
        """Return what a reader or writer returns; where the connection was lost in its midst, do it once more."""
        return tried_again(self.storage, self.url, act)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only worker that asks or tells."""
        with alone(self._folder / _ASKING, self.storage, self._name):
            yield

    def reclaim(
        self, held: Collection[int] = ()
    ) -> tuple[list[trial_format.StoredTrial], list[trial_format.StoredTrial]]:
        """End what dead workers left running; to be called alone.

        Args:
            held: Optuna's numbers of the trials that this worker evaluates; any other of its own was lost by an error.

        Returns:
            what was ended, as it was, and every trial as it is now.
        """

        def is_orphan(record: trial_format.StoredTrial) -> bool:
            return worker_of(record) == self.worker and record.number not in held

        silent = partial(self.rows.silent, self.grace_seconds)
        stored = self.follower.trials()
        left = run_out(stored, self._folder, silent, is_orphan)
        end_running(self.study, left, self._objectives)
        return left, self.follower.trials() if left else stored

    def give_back(self) -> None:
        """End what this worker was given and has not finished, for others to take it over at once."""
        with suppress(StudyError, KeyError):  # others notice by themselves, and a study may be gone
            self.storage.remove_session()  # an interrupt may have left it in the midst of something

            def end(_: bool) -> None:
                with self.alone():
                    self.reclaim()

            self.tried(end)

    def _check_one_machine(self, stored: Sequence[trial_format.StoredTrial]) -> None:
        """Refuse to share a storage that serves one machine.

        Raises:
            StudyError: naming the other machine.
        """
        if serves_many(self.storage):
            return
        strangers = {
            worker.host
            for record in running_of(stored)
            if (worker := worker_of(record)) is not None and worker.host != self.worker.host
        }
        if strangers:
            raise StudyError(
                f"this study is being searched on {', '.join(sorted(strangers))}, and its storage "
                f"{without_password(self.url)!r} serves the workers of one machine. Search on that machine, or begin "
                f"a study in a database: --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            )


def running_of(stored: Sequence[trial_format.StoredTrial]) -> list[trial_format.StoredTrial]:
    """Return the trials that run."""
    return [record for record in stored if record.state == TrialState.RUNNING]
