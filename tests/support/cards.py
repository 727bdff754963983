"""Picks whose card comes back as JSON, as ``card.json`` holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.pick.finish import finish_trials


def finish_to_json(*arguments: Any, **options: Any) -> tuple[dict[str, Any], Path]:
    """Finish trials; return the card as JSON, and the folder."""
    card, folder = finish_trials(*arguments, **options)
    return card.to_json(), folder
