"""Quiet for timing: while one process times on a device, the others of this user rest between two of their steps.

Two file locks in the folder for temporary files, for each user and device. Who works on the device holds the second one
shared, as long as it works. Who times takes the first, at which the others let go of the second between two steps, and
then waits to hold that alone. A dead process holds nothing, so nobody waits for it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

REST_SECONDS = 60.0  # at most: whoever times may have been stopped
_PAUSE = 0.001  # seconds between two tries


class Quiet:
    """The quiet of one device, as this process keeps it and asks for it.

    Args:
        device: ``cpu``, ``cuda``, ``mps``.
        folder: where the locks lie; ``None`` for that of temporary files.

    Raises:
        OSError: if a lock cannot be made.
    """

    def __init__(self, device: str, folder: Path | None = None) -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if device == "cuda" else ""
        name = f"autoprune-{os.getuid()}-{device}{visible.replace(',', '-').replace('/', '-')}"
        place = Path(folder or tempfile.gettempdir())
        self._timing = os.open(place / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._working = os.open(place / f"{name}-work.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._is_working, self._depth = False, 0

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._timing)
        os.close(self._working)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work on the device for a stretch of code, which calls :meth:`rest` between its steps."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._let_go()

    def rest(self) -> None:
        """Wait while another process times on the device; microseconds if none does."""
        if not _try(self._timing, fcntl.LOCK_SH):
            self._let_go()
            _wait(self._timing, fcntl.LOCK_SH, REST_SECONDS)
        if self._depth and not self._is_working:
            self._is_working = _try(self._working, fcntl.LOCK_SH)
        fcntl.flock(self._timing, fcntl.LOCK_UN)

    def _let_go(self) -> None:
        if self._is_working:
            fcntl.flock(self._working, fcntl.LOCK_UN)
            self._is_working = False

    @contextmanager
    def timing(self, turn_seconds: float, work_seconds: float) -> Iterator[tuple[bool, bool]]:
        """Have the device for timing: nobody else times on it, and those who work on it rest.

        Args:
            turn_seconds: how long to wait for others to have timed.
            work_seconds: how long to wait for others to come to the end of a step.

        Yields:
            whether nobody else times, and whether nobody else works.
        """
        self._let_go()
        has_turn = _wait(self._timing, fcntl.LOCK_EX, turn_seconds)
        is_quiet = has_turn and _wait(self._working, fcntl.LOCK_EX, work_seconds)
        try:
            yield has_turn, is_quiet
        finally:
            fcntl.flock(self._working, fcntl.LOCK_UN)
            fcntl.flock(self._timing, fcntl.LOCK_UN)


def rest(device: str) -> None:
    """Rest between two steps while another process times on a device; where no lock can be made, nobody waits."""
    found = _quiet_of(device, os.getpid())
    if found is not None:
        found.rest()


@contextmanager
def work(device: str) -> Iterator[None]:
    """Work on a device for a stretch of code, which calls :func:`rest` between its steps."""
    found = _quiet_of(device, os.getpid())
    with nullcontext() if found is None else found.work():
        yield


@cache
def _quiet_of(device: str, process: int) -> Quiet | None:
    """Return the quiet of a device; a forked process has its own."""
    try:
        return Quiet(device)
    except OSError:
        return None


def _try(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int, how: int, seconds: float) -> bool:
    """Return whether a file could be locked within a time."""
    until = time.monotonic() + seconds
    while not _try(descriptor, how):
        if time.monotonic() > until:
            return False
        time.sleep(_PAUSE)
    return True
