"""A lock on a file that the operating system holds (``flock``): a dead process keeps none."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

SHARED, ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX


class FileLock:
    """A file that this process has open, and holds locked or not.

    Args:
        path: of the file; made if it is missing, in a folder that is there.
        mode: of a file that is made.

    Raises:
        OSError: if it cannot be made or opened.
    """

    def __init__(self, path: Path, mode: int = 0o644) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        self._is_open = True

    def take(self, how: int) -> bool:
        """Return whether the file could be locked at once.

        Args:
            how: ``SHARED``, together with others, or ``ALONE``.

        Raises:
            OSError: if its file system has no locks.
        """
        return try_lock(self._descriptor, how)

    def wait(self, how: int, seconds: float, pause: float, longest_pause: float = 0.0) -> bool:
        """Return whether the file could be locked within a time.

        Args:
            how: as for :meth:`take`.
            seconds: for which it is tried.
            pause: seconds before it is tried a second time.
            longest_pause: to which the pause grows from one try to the next; it stays as it is if that is less.

        Raises:
            OSError: if its file system has no locks.
        """
        until = time.monotonic() + seconds
        while not self.take(how):
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = max(pause, min(1.5 * pause, longest_pause))
        return True

    def unlock(self) -> None:
        """Let go of the lock, and keep the file open."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let go of the lock and of the file; again, nothing happens."""
        if self._is_open:
            os.close(self._descriptor)
            self._is_open = False


def try_lock(descriptor: int, how: int) -> bool:
    """Return whether an open file could be locked at once."""
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
