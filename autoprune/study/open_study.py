"""A study as one of its workers has it open: the storage, its locks, and what dead workers left in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.samplers import RandomSampler

from autoprune.errors import StudyError
from autoprune.study import trial_format
from autoprune.study.asking import alone, alone_here, making_tables
from autoprune.study.known_trials import KnownTrials
from autoprune.study.lapsed_leases import run_out, worker_of
from autoprune.study.lock import share_lock
from autoprune.study.resume import end_running
from autoprune.study.same_place import SamePlace
from autoprune.study.storage import open_storage, opened, reporting_damage, tried_again
from autoprune.study.storage_url import serves_many_machines, without_password
from autoprune.study.trial_rows import TrialRows, open_rows
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
        rows: its trials in the storage.
        known: its trials, as they were last read.
        place: where the study was when it was opened.
        reclaimed: how many candidates waited to be asked again when it was opened.

    Raises:
        StudyLockedError: if another process removes the study.
        StudyError: if the storage cannot be opened, or serves one machine only and another one searches the study.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[str], lock: Path, grace_seconds: float) -> None:
        self.url, self.grace_seconds = url, grace_seconds
        self._name, self._objectives, self._folder = name, tuple(objectives), lock.parent
        self.known, self._is_open = KnownTrials(), False
        self._lock = share_lock(lock)
        try:
            self._worker = Worker(self._folder)
        except BaseException:
            self._lock.release()
            raise
        try:
            opened(url, lambda: self._open(lock))
        except BaseException:
            self.close()
            raise

    def _open(self, lock: Path) -> None:
        self._disconnect()  # where a first try was cut off
        with alone_here(self._folder / _ASKING), making_tables(self.url):  # one process makes them
            self.storage = open_storage(self.url)
            self._is_open = True
            self.study = optuna.create_study(
                storage=self.storage,
                study_name=self._name,
                directions=trial_format.directions(self._objectives),
                load_if_exists=True,
            )
        self.study_id = self.storage.get_study_id_from_name(self._name)
        self.rows = open_rows(self.storage, self.study_id)
        self.place = SamePlace(lock, self.url, self.study_id, self._name)
        # there may be thousands of trials to take in, before others have to wait for it
        with self.alone(before=self.known.take_in) as rows:
            self.known.take_in(rows)
            self.reclaimed = len(self.known.lost)
            self.reclaimed += len(self.reclaim(rows))
            self._check_one_machine()
        forget_dead(self._folder)

    def close(self) -> None:
        """Let go of the study and its storage; others see this worker gone."""
        self._disconnect()
        self._worker.end()
        self._lock.release()

    def _disconnect(self) -> None:
        if self._is_open:
            self.storage.remove_session()
            self.storage.engine.dispose()

    @property
    def worker(self) -> WorkerName:
        """Return who this is."""
        return self._worker.name

    @property
    def others(self) -> list[WorkerName]:
        """Return the other workers: those of this folder, and those elsewhere that evaluate a candidate now."""
        here = workers_here(self._folder)
        with reporting_damage(self.url):
            self.take_in()
        elsewhere = [worker for record in self.known.running if (worker := worker_of(record)) is not None]
        return sorted({*here, *elsewhere} - {self.worker}, key=str)

    def take_in(self) -> None:
        """Take in what is new among the trials.

        Raises:
            StudyError: if they cannot be read.
            KeyError, TypeError, ValueError: if a record is damaged.
        """
        self.tried(lambda _: self.known.take_in(self.rows))

    def tried(self, act: Callable[[bool], T]) -> T:
        """Return what a reader or writer returns; where the connection was lost in its midst, do it once more."""
        return tried_again(self.storage, self.url, act)

    @contextmanager
    def alone(self, before: Callable[[TrialRows], None] = lambda _: None) -> Iterator[TrialRows]:
        """Be the only worker that asks or tells; give the trials as this one reads and writes them meanwhile.

        Args:
            before: reads what takes time and keeps nobody out; it may only read. What is written afterwards is
                committed at the end, before the next worker is let in.
        """
        with self.storage.engine.connect() as connection:
            rows = self.rows.within(connection)
            before(rows)
            with alone(self._folder / _ASKING, connection, self._name):
                yield rows

    @contextmanager
    def asking(self, held: Collection[int]) -> Iterator[TrialRows]:
        """Be alone, with everything taken in that is stored, and ended what dead workers left.

        Who is dead is found out before others are kept out, and looked at again only where somebody seems to be.

        Args:
            held: as for :meth:`reclaim`.

        Raises:
            StudyError: if the study was deleted, moved or replaced.
        """
        seem_left = False

        def before(rows: TrialRows) -> None:
            nonlocal seem_left
            self.place.check(rows)
            self.known.take_in(rows)
            seem_left = bool(self._left(rows, held))

        with self.alone(before) as rows:
            self.known.take_in(rows)
            if seem_left:
                self.reclaim(rows, held)
            yield rows

    def reclaim(self, rows: TrialRows, held: Collection[int] = ()) -> list[trial_format.StoredTrial]:
        """End what dead workers left running; to be called alone.

        Args:
            rows: the study's trials.
            held: Optuna's numbers of the trials that this worker evaluates; any other of its own was lost by an error.

        Returns:
            what was ended, as it was.
        """
        numbers = {record.number for record in self._left(rows, held)}
        if not numbers:
            return []
        left = [record for record in rows.read(max(numbers), numbers) if record.number in numbers]
        self.study.sampler = RandomSampler()  # its trials may end without any sampler's seeing it
        end_running(self.study, left, self._objectives)
        self.known.take_in(rows)
        return left

    def _left(self, rows: TrialRows, held: Collection[int]) -> list[trial_format.StoredTrial]:
        def is_orphan(record: trial_format.StoredTrial) -> bool:
            return worker_of(record) == self.worker and record.number not in held

        return run_out(self.known.running, self._folder, partial(rows.silent, self.grace_seconds), is_orphan)

    def give_back(self) -> None:
        """End what this worker was given and has not finished, for others to take it over at once."""
        with suppress(StudyError, KeyError):  # others notice by themselves, and a study may be gone
            self.storage.remove_session()  # an interrupt may have left it in the midst of something

            def end(_: bool) -> None:
                with self.alone() as rows:
                    self.known.take_in(rows)
                    self.reclaim(rows)

            self.tried(end)

    def _check_one_machine(self) -> None:
        """Refuse to share a storage that serves one machine.

        Raises:
            StudyError: naming the other machine.
        """
        if serves_many_machines(self.url):
            return
        strangers = {
            worker.host
            for record in self.known.running
            if (worker := worker_of(record)) is not None and worker.host != self.worker.host
        }
        if strangers:
            raise StudyError(
                f"this study is being searched on {', '.join(sorted(strangers))}, and its storage "
                f"{without_password(self.url)!r} serves the workers of one machine. Search on that machine, or begin "
                f"a study in a database: --storage postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
            )
