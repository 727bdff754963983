"""A turn at timing on a device: two processes that time at the same moment both measure the wrong latency.

Processes of autoprune take turns, and those that train on the device rest meanwhile (``core.quiet``). Other programs go
on; alternating blocks cancel their noise.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.core.quiet import Quiet

PATIENCE_SECONDS = 60.0
STEP_SECONDS = 10.0  # within which whoever trains comes to the end of a step


@contextmanager
def timing_lock(
    device: str,
    patience_seconds: float = PATIENCE_SECONDS,
    folder: Path | None = None,
    step_seconds: float = STEP_SECONDS,
) -> Iterator[None]:
    """Take a device for timing as soon as no other process of this user times on it, and those that train there rest.

    If the wait for a turn takes too long, or no lock can be made, timing goes on with a :class:`RuntimeWarning`. If
    others do not come to the end of a step, it goes on beside them.

    Args:
        device: ``cpu``, ``cuda``, ``mps``.
        patience_seconds: how long to wait for a turn.
        folder: where the locks lie; ``None`` for that of temporary files.
        step_seconds: how long to wait for others to rest.
    """
    try:
        quiet = Quiet(device, folder)
    except OSError as error:
        warnings.warn(
            f"no lock for timing on {device} ({error.strerror or error}), so other processes may time at the same "
            f"moment; make {str(folder or tempfile.gettempdir())!r} writable",
            RuntimeWarning,
            stacklevel=3,
        )
        yield
        return
    try:
        with quiet.timing(patience_seconds, step_seconds) as (has_turn, _):
            if not has_turn:
                warnings.warn(
                    f"another process has been timing on {device} for {patience_seconds:g} s; timing beside it, so the "
                    f"spread will be larger",
                    RuntimeWarning,
                    stacklevel=4,
                )
            yield
    finally:
        quiet.close()
