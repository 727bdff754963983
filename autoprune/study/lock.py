"""The lock of a study: any number of workers share it, and anybody may ask whether one holds it.

The operating system holds the lock (``flock``), so a dead process cannot keep it. Workers hold it *shared*; who removes
or replaces the study holds it alone. Who only asks tries for some microseconds to hold it alone, on a file opened for
reading: nothing is written, and a worker that begins in that very moment tries again instead of being refused.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.core.file_lock import ALONE, SHARED, FileLock, try_lock
from autoprune.errors import StudyError, StudyLockedError

PATIENCE = 0.3  # seconds for which a lock is tried again; one who asks holds it for microseconds
_PAUSE = 0.005
_ASKED = 4  # times that it is asked before a lock counts as held: another may ask in the same moment


def open_lock(path: Path) -> FileLock:
    """Return a lock file of a study, open and not held yet.

    Raises:
        StudyError: if the file cannot be made or opened.
    """
    with _as_study_error(path):
        return FileLock(path)


def take_lock(path: Path) -> FileLock:
    """Return the lock of a study, held alone; whoever takes it releases it.

    Raises:
        StudyLockedError: if another process holds it.
        StudyError: if the file cannot be made or locked.
    """
    return _taken(path, ALONE, "another process is searching this study")


def share_lock(path: Path) -> FileLock:
    """Return the lock of a study as each of its workers holds it; whoever takes it releases it.

    Raises:
        StudyLockedError: if another process removes or replaces the study, or searches it with an older version.
        StudyError: if the file cannot be made or locked.
    """
    return _taken(path, SHARED, "another process removes this study, or searches it with an older autoprune")


def _taken(path: Path, how: int, otherwise: str) -> FileLock:
    lock = open_lock(path)
    try:
        with _as_study_error(path):
            if lock.wait(how, PATIENCE, _PAUSE):
                return lock
    except BaseException:
        lock.release()
        raise
    lock.release()
    raise StudyLockedError(
        f"{otherwise} (it holds {str(path)!r}). Wait for it or stop it; `autoprune report` and `autoprune watch` read "
        f"a running study"
    )


@contextmanager
def _as_study_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError(f"the lock {str(path)!r} cannot be taken: {error.strerror or error}") from error


def is_searched(path: Path) -> bool:
    """Return whether a process holds the lock of a study, without getting in the way of one that wants it.

    Args:
        path: the study's lock file; where there is none, nobody has searched the study yet.

    Raises:
        StudyError: if the file cannot be read.
    """
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_tell(path, error) from error
    try:
        return not _ever(lambda: try_lock(descriptor, ALONE))
    except OSError as error:  # a file system without locks
        raise _cannot_tell(path, error) from error
    finally:
        os.close(descriptor)  # this lets go of the lock


def _opened(path: Path) -> int:
    """Open a file for writing if that is allowed, since network file systems lock no other, and else for reading."""
    try:
        return os.open(path, os.O_RDWR)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(path, os.O_RDONLY)


def _cannot_tell(path: Path, error: OSError) -> StudyError:
    return StudyError(
        f"cannot tell whether the study is being searched: {str(path)!r} cannot be read: {error.strerror or error}"
    )


def _ever(is_so: Callable[[], bool]) -> bool:
    """Return whether something is so, asked a few times."""
    for attempt in range(_ASKED):
        if attempt:
            time.sleep(_PAUSE)
        if is_so():
            return True
    return False
