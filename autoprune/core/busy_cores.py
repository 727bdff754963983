"""How many of this process's cores other programs use now, as Linux counts the time of each core.

Two OpenMP threads on two cores train twenty times as slow as alone while one other program computes beside them,
because each waits for the other; one thread does not. So a process takes no core that others use, and says so; and it
looks again as it goes on (:class:`BusyWatch`), since a machine gets busy and quiet again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

_SECONDS = 0.3  # that are watched
QUIET = 0.25  # cores that may be in use without one being taken: a desktop, and what has just ended
_IDLE = (3, 4)  # columns of the time in which a core waits for work, or for a disk


def free_cores(cores: int) -> int:
    """Return how many of the cores other programs leave free, at least 1; measured once in each process.

    Args:
        cores: that this process may use.
    """
    busy = busy_cores()
    return cores if busy is None else cores_left(cores, busy)


def cores_left(cores: int, busy: float, quiet: float = QUIET) -> int:
    """Return how many of the cores are left where others use some, at least 1.

    Args:
        cores: that this process may use.
        busy: how many others use.
        quiet: how many of them may be in use without one being taken.

    >>> cores_left(4, 1.0), cores_left(4, 1.3), cores_left(4, 1.3, quiet=0.5)
    (3, 2, 3)
    """
    return max(1, cores - math.ceil(max(0.0, busy - quiet)))


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
    watch = BusyWatch(read)
    pause(_SECONDS)
    return watch.since_last()


class BusyWatch:
    """A look at the cores now and then, which tells what others used of them since the look before.

    Args:
        read: as for :func:`watched`.
    """

    def __init__(self, read: Callable[[], str] | None = None) -> None:
        self._read = read or _read_stat
        self._last = self._look()

    def since_last(self) -> float | None:
        """Return how many cores others used on average since the last look; ``None`` where that is not known."""
        before, now = self._last, self._look()
        self._last = now
        if before is None or now is None:
            return None
        elapsed = now.whole - before.whole  # hundredths of a second, of all cores together
        if elapsed <= 0 or now.cores != before.cores:
            return None
        in_use = now.cores * (now.used - before.used) / elapsed
        own = 100 * now.cores * (now.own_seconds - before.own_seconds) / elapsed
        return min(float(now.cores), max(0.0, in_use - own))

    def _look(self) -> _Ticks | None:
        try:
            return _ticks(self._read(), time.process_time())
        except (OSError, ValueError, IndexError):
            return None


class _Ticks(NamedTuple):
    """What is counted of this process's cores, in hundredths of a second since the machine was started."""

    used: int
    whole: int
    cores: int
    own_seconds: float


def _read_stat() -> str:
    return Path("/proc/stat").read_text(encoding="ascii")


def _ticks(text: str, own_seconds: float) -> _Ticks:
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
    return _Ticks(used, whole, count, own_seconds)
