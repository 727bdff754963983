"""How many CPU cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """Return the cores this process may use; two hardware threads of one core count as one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threading = Path("/sys/devices/system/cpu/smt/active")
    shared = threading.exists() and threading.read_text(encoding="ascii").strip() == "1"
    return max(1, count // 2 if shared else count)
