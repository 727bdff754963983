"""What decides between networks whose quality cannot be told apart: ``--prefer latency|size|accuracy``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

Preference: TypeAlias = Literal["latency", "size", "accuracy"]

PREFERRED: Preference = "latency"
COST_OF: Mapping[Preference, str | None] = {"latency": "latency_ms", "size": "size_mb", "accuracy": None}
"""What is preferred → the cost metric that decides; ``None`` where the validation loss does."""

WORDS: Mapping[Preference, str] = {
    "latency": "the fastest",
    "size": "the smallest",
    "accuracy": "the one with the lowest validation loss",
}
"""What is preferred → which network that is, in words."""
