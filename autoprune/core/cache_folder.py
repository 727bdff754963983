"""The user's cache folder: for what can be downloaded or made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/autoprune``, or ``~/.cache/autoprune``; it need not exist.

    Raises:
        RuntimeError: if the user has no home, and nothing is named.

    Source: XDG Base Directory Specification 0.8, which ignores a variable that names no absolute path.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (named if named.is_absolute() else Path.home() / ".cache") / "autoprune"
