"""How many CPU cores this process may use, and how many threads it uses if nobody says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

THREADS_VARIABLE = "OMP_NUM_THREADS"
TOGETHER_VARIABLE = "AUTOPRUNE_THREADS_TOGETHER"  # what several workers of one command have, all of them together
_for_all: ContextVar[bool] = ContextVar("for_all", default=False)


def available_cores() -> int:
    """Return the cores this process may use; two hardware threads of one core count as one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threading = Path("/sys/devices/system/cpu/smt/active")
    shared = threading.exists() and threading.read_text(encoding="ascii").strip() == "1"
    return max(1, count // 2 if shared else count)


def default_threads() -> int:
    """Return the threads that the environment allows, or one for each core, whichever is less."""
    cores = available_cores()
    together = _given(TOGETHER_VARIABLE) if _for_all.get() else 0
    return min(cores, max(_given(THREADS_VARIABLE) or cores, together))


def _given(variable: str) -> int:
    """Return a number of threads from the environment, 0 if there is none."""
    given = os.environ.get(variable, "").partition(",")[0].strip()
    return int(given) if given.isdecimal() else 0


@contextmanager
def while_others_wait() -> Iterator[None]:
    """Let one worker use the threads of all that one command has started, as long as the others wait for it."""
    token = _for_all.set(True)
    try:
        yield
    finally:
        _for_all.reset(token)
