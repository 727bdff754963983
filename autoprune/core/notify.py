"""How long work says what is going on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Notify: TypeAlias = Callable[[str], None]
"""Takes one sentence, for a person to read."""


def silent(message: str) -> None:
    """Drop a sentence: nobody reads it."""
