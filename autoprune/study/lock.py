"""The lock of a study: one process searches it, and anybody may ask whether one does.

The operating system holds the lock (``flock``), so a dead process cannot keep it. Who only asks takes a *shared* lock
for some microseconds on a file opened for reading: many may ask at once, nothing is written, and a search that begins
in that very moment tries again for a while instead of being refused.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import filelock

from autoprune.errors import StudyError, StudyLockedError

PATIENCE = 0.3  # seconds for which a lock is tried again; one who asks holds it for microseconds


def take_lock(path: Path) -> filelock.BaseFileLock:
    """Return the lock of a study, taken; whoever takes it releases it.

    Raises:
        StudyLockedError: if another process holds it.
        StudyError: if the file cannot be made or locked.
    """
    lock = filelock.FileLock(path, timeout=PATIENCE)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise StudyLockedError(
            f"another process is searching this study (it holds {str(path)!r}). Wait for it or stop it; "
            f"`autoprune report` and `autoprune watch` read a running study"
        ) from None
    except OSError as error:
        raise StudyError(f"the lock {str(path)!r} cannot be taken: {error.strerror or error}") from error
    return lock


def is_searched(path: Path) -> bool:
    """Return whether a process holds the lock of a study, without getting in the way of one that wants it.

    Args:
        path: the study's lock file; where there is none, nobody has searched the study yet.

    Raises:
        StudyError: if the file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StudyError(
            f"cannot tell whether the study is being searched: {str(path)!r} cannot be read: {error.strerror or error}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # this lets go of the lock
    return False
