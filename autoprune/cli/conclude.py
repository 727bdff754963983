"""How ``pick`` and ``apply`` end: the card, where the folder is, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.cli.output import echo, emit

if TYPE_CHECKING:
    from autoprune.export.card import Card


def conclude(card: Card, target: Path, as_json: bool) -> None:
    """Print a card; exit with 1 if an export failed that was named."""
    from autoprune.export.picked_files import CARD
    from autoprune.pick.card_text import summary_text
    from autoprune.pick.facts_text import load_call

    if as_json:
        emit({**card.to_json(), "folder": str(target)})
    else:
        echo(summary_text(card))
        echo(f"\nwritten: {target} (see {CARD}); load it with {load_call(card.weights.model, str(target))}")
    for failed in card.written.failed:
        echo(f"autoprune: {failed.file} was not written; the other files are complete", err=True)
    if card.written.failed and card.written.wanted.is_explicit:
        sys.exit(1)
