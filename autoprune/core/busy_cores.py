"""How many of this process's cores other programs use now, as Linux counts the time of each core.

Two OpenMP threads on two cores train twenty times as slow as alone while one other program computes beside them,
because each waits for the other; one thread does not. So a process takes no core that others use, and says so.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

_SECONDS = 0.3  # that are watched
_QUIET = 0.25  # cores that may be in use without one being taken: a desktop, and what has just ended
_IDLE = (3, 4)  # columns of the time in which a core waits for work, or for a disk


def free_cores(cores: int) -> int:
    """Return how many of the cores other programs leave free, at least 1; measured once in each process.

    Args:
        cores: that this process may use.
    """
    busy = busy_cores()
    return cores if busy is None else max(1, cores - math.ceil(max(0.0, busy - _QUIET)))


@cache
def busy_cores() -> float | None:
    """Return how many of this process's cores others use, in [0, their number]; ``None`` where that is not known."""
    return watched(_read_stat, time.sleep)


def watched(read: Callable[[], str], pause: Callable[[float], None]) -> float | None:
    """Return how many cores were in use by others between two readings.

    Args:
        read: returns what ``/proc/stat`` holds; raises ``OSError`` where there is none.
        pause: waits for so many seconds.
    """
    try:
        before, own = _ticks(read()), time.process_time()
        pause(_SECONDS)
        after, own = _ticks(read()), time.process_time() - own
    except (OSError, ValueError, IndexError):
        return None
    elapsed = after[1] - before[1]
    if elapsed <= 0 or after[2] != before[2]:
        return None
    in_use = after[2] * (after[0] - before[0]) / elapsed
    return min(float(after[2]), max(0.0, in_use - own / _SECONDS))


def _read_stat() -> str:
    return Path("/proc/stat").read_text(encoding="ascii")


def _ticks(text: str) -> tuple[int, int, int]:
    """Return the time for which this process's cores were in use, all of their time, and how many they are."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    used = whole = count = 0
    for line in text.splitlines():
        name, *values = line.split()
        number = name.removeprefix("cpu")
        if number.isdecimal() and (mine is None or int(number) in mine):
            columns = [int(value) for value in values[:8]]  # the two after them are counted among these
            whole += sum(columns)
            used += sum(columns) - sum(columns[place] for place in _IDLE)
            count += 1
    return used, whole, count
