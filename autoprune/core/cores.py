"""How many CPU cores this process may use, and how many threads it uses if nobody says so."""

from __future__ import annotations

import os
from pathlib import Path

THREADS_VARIABLE = "OMP_NUM_THREADS"


def available_cores() -> int:
    """Return the cores this process may use; two hardware threads of one core count as one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threading = Path("/sys/devices/system/cpu/smt/active")
    shared = threading.exists() and threading.read_text(encoding="ascii").strip() == "1"
    return max(1, count // 2 if shared else count)


def default_threads() -> int:
    """Return the threads that the environment allows, or one for each core, whichever is less."""
    given = os.environ.get(THREADS_VARIABLE, "").partition(",")[0].strip()
    cores = available_cores()
    return min(cores, int(given)) if given.isdecimal() and int(given) else cores
