"""A lock for timing on a device: two processes that time at the same moment both measure the wrong latency.

It is a file lock in the folder for temporary files, one per user and device. It keeps processes of autoprune from
timing at the same time. It does not stop others from training meanwhile; alternating blocks cancel their noise.
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
def timing_lock(device: str, patience_seconds: float = PATIENCE_SECONDS, folder: Path | None = None) -> Iterator[None]:
    """Take a device for timing as soon as no other process of this user has it.

    If the wait takes too long, or no lock can be made, timing goes on with a :class:`RuntimeWarning`.

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
