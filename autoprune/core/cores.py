"""How many CPU cores this process may use, and how many threads it uses if nobody says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from autoprune.core.busy_cores import busy_cores, free_cores

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
    """Return the threads that the environment allows, at most one for each core.

    Where the environment says nothing, one for each core that other programs leave free, as measured once in this
    process: it stays the same until the process ends.
    """
    cores = available_cores()
    together = _given(TOGETHER_VARIABLE) if _for_all.get() else 0
    given = _given(THREADS_VARIABLE)
    return min(cores, max(given or free_cores(cores), together))


def threads_are_given() -> bool:
    """Return whether the environment says how many threads a process uses.

    Those of workers that wait are lent: while this one has them too, it gives back what other programs use.
    """
    given = _given(THREADS_VARIABLE)
    is_lent = _for_all.get() and _given(TOGETHER_VARIABLE) > given
    return given > 0 and not is_lent


def unused_cores() -> int:
    """Return the cores that several processes of one command share: those that other programs leave free."""
    return free_cores(available_cores())


def threads_of_each(processes: int) -> int:
    """Return the threads that each of several processes uses: as the environment says, or its part of the cores."""
    return _given(THREADS_VARIABLE) or max(1, unused_cores() // processes)


def fewer_threads_note() -> str:
    """Return, in a sentence, that other programs cost this process threads; empty if they do not."""
    cores, given = available_cores(), _given(THREADS_VARIABLE)
    free = cores if given or cores == 1 else free_cores(cores)
    if free == cores:
        return ""
    threads = "1 thread" if free == 1 else f"{free} threads"
    return (
        f"other programs use about {busy_cores() or 0:.1f} of the cores, so this process takes {threads} and not "
        f"{cores}, which would wait for each other; --threads {cores} takes all"
    )


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
