"""Time on a device by turns: what two processes measure at the same moment is neither's latency.

A file lock in the folder for temporary files, one per user and device. It keeps processes of autoprune from timing at
the same time. It does not stop others from training meanwhile; against their noise stand the alternating blocks.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PATIENCE_SECONDS = 60.0


@contextmanager
def turn_on(device: str, patience_seconds: float = PATIENCE_SECONDS, folder: Path | None = None) -> Iterator[None]:
    """Hold a device for timing, as soon as no other process of this user does.

    If the turn does not come in time, or there can be no lock, a :class:`RuntimeWarning` says so and timing goes on.

    Args:
        device: ``cpu``, ``cuda``, ``mps``.
        patience_seconds: how long to wait.
        folder: where the lock lies; ``None`` for that of temporary files.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    lock = FileLock(Path(folder or tempfile.gettempdir()) / f"autoprune-{user}-{device}.lock", timeout=patience_seconds)
    try:
        lock.acquire()
    except Timeout:
        warnings.warn(
            f"another process has been timing on {device} for {patience_seconds:g} s; timing beside it, so the spread "
            f"will be larger",
            RuntimeWarning,
            stacklevel=3,
        )
    except OSError as error:
        warnings.warn(
            f"no lock for timing on {device} ({error.strerror or error}), so other processes may time at the same "
            f"moment; make {str(folder or tempfile.gettempdir())!r} writable",
            RuntimeWarning,
            stacklevel=3,
        )
    try:
        yield
    finally:
        lock.release()
