"""Who works on a study: :class:`Worker`, one process, told from all others by a name that no other ever has.

A worker holds a file of its own locked in the study's folder as long as it lives. Others on its machine see its death
at once, because the operating system lets go of the lock; those elsewhere see that its heartbeat has stopped.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.file_lock import ALONE, SHARED, FileLock, try_lock
from autoprune.errors import StudyError

FOLDER = "workers"
_ENDING = ".lock"


@dataclass(frozen=True)
class WorkerName:
    """The name of a worker.

    Attributes:
        host: of the machine.
        place: which folder on that machine its file lies in.
        process: its number there.
        mark: random, since numbers of processes are used again.
    """

    host: str
    place: str
    process: int
    mark: str

    @classmethod
    def new(cls, folder: Path) -> WorkerName:
        """Return a name for this process at work in a study's folder that nobody has had."""
        return cls(_host(), _place(folder), os.getpid(), secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> WorkerName:
        """Return the name that was written so.

        Raises:
            ValueError: if it is none.

        >>> WorkerName.parse("node7:2049-77:4242:9f1c2ab0")
        WorkerName(host='node7', place='2049-77', process=4242, mark='9f1c2ab0')
        """
        host, place, process, mark = text.split(":")
        return cls(host, place, int(process), mark)

    def __str__(self) -> str:
        return f"{self.host}:{self.place}:{self.process}:{self.mark}"

    @property
    def home(self) -> str:
        """Return the machine and the folder there, as a study says where it began."""
        return f"{self.host}:{self.place}"

    @property
    def shown(self) -> str:
        """Return the name as a person reads it."""
        return f"process {self.process} on {self.host}"


class Worker:
    """This process at work on a study, alive to others until it ends.

    Args:
        folder: of the study.

    Raises:
        StudyError: if its file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.name = WorkerName.new(folder)
        self._path = folder / FOLDER / f"{self.name}{_ENDING}"
        hidden = self._path.with_name(f".{self._path.name}.{self.name.process}.tmp")  # unseen until it is locked
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._lock = FileLock(hidden)
            self._lock.take(ALONE)
            hidden.rename(self._path)
        except OSError as error:
            raise StudyError(
                f"the lock {str(self._path)!r} cannot be taken: {error.strerror or error}; free the disk or its "
                f"permissions"
            ) from error

    def end(self) -> None:
        """Be seen as gone."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._lock.release()


def known_dead(folder: Path, names: Iterable[WorkerName]) -> set[WorkerName]:
    """Return the workers of this very folder and machine that are gone; of those elsewhere nothing is known here."""
    host, place = _host(), _place(folder)
    here = {name for name in names if (name.host, name.place) == (host, place)}
    return {name for name in here if _is_gone(folder / FOLDER / f"{name}{_ENDING}")}


def home_in(folder: Path) -> str:
    """Return this machine and a folder of it, as a study says where it began."""
    return f"{_host()}:{_place(folder)}"


def workers_here(folder: Path) -> list[WorkerName]:
    """Return the workers that live and have their file in a study's folder, by name."""
    return sorted((name for path, name in _listed(folder) if not _is_free(path)), key=str)


def forget_dead(folder: Path) -> None:
    """Remove the files of dead workers, once nothing is theirs any more."""
    for path, _ in _listed(folder):
        if _is_free(path):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _host() -> str:
    return "".join(each if each.isalnum() or each in "-." else "-" for each in socket.gethostname()) or "localhost"


def _place(folder: Path) -> str:
    """Return what tells a folder from all others of this machine, whatever it is called."""
    found = folder.stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def _listed(folder: Path) -> Iterator[tuple[Path, WorkerName]]:
    with suppress(OSError):
        for path in sorted((folder / FOLDER).iterdir()):
            with suppress(ValueError):
                if path.suffix == _ENDING and not path.name.startswith("."):
                    yield path, WorkerName.parse(path.name.removesuffix(_ENDING))


def _is_gone(path: Path) -> bool:
    """Return whether there is no such file, or nobody holds it locked."""
    return _is_free(path) or not path.exists()


def _is_free(path: Path) -> bool:
    """Return whether there is such a file and nobody holds it locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return try_lock(descriptor, SHARED)
    finally:
        os.close(descriptor)
