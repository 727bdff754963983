"""Quiet for timing: while one process times on a device, the others of this user rest between two of their steps.

Two file locks in the folder for temporary files, for each user and device. Who works on the device holds the second one
shared, as long as it works. Who times takes the first, at which the others let go of the second between two steps, and
then waits to hold that alone. A dead process holds nothing, so nobody waits for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

from autoprune.core.file_lock import ALONE, SHARED, FileLock

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
        self._timing = FileLock(place / f"{name}.lock", 0o600)
        self._working = FileLock(place / f"{name}-work.lock", 0o600)
        self._is_working, self._depth = False, 0

    def close(self) -> None:
        """Let go of everything."""
        self._timing.release()
        self._working.release()

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
        if not self._timing.take(SHARED):
            self._let_go()
            self._timing.wait(SHARED, REST_SECONDS, _PAUSE)
        if self._depth and not self._is_working:
            self._is_working = self._working.take(SHARED)
        self._timing.unlock()

    def _let_go(self) -> None:
        if self._is_working:
            self._working.unlock()
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
        has_turn = self._timing.wait(ALONE, turn_seconds, _PAUSE)
        is_quiet = has_turn and self._working.wait(ALONE, work_seconds, _PAUSE)
        try:
            yield has_turn, is_quiet
        finally:
            self._working.unlock()
            self._timing.unlock()


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
