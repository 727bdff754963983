"""Processes of this Python interpreter that do a part of the work, and say how it goes on their standard output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence


def started_python(
    words: Sequence[str], environment: Mapping[str, str], *, stdin: int = subprocess.DEVNULL, folder: str | None = None
) -> subprocess.Popen[str]:
    """Start this Python interpreter with what stands behind its name, in a folder, apart from this terminal."""
    return subprocess.Popen(
        [sys.executable, *words],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **environment},
        cwd=folder,
        start_new_session=True,  # Ctrl-C reaches this process alone, which ends the others
    )
