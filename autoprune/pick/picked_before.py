"""What was picked before: the card and the folder of a trial that is finished already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.trial import Trial
from autoprune.export.card import Card
from autoprune.export.picked_files import CARD_JSON, missing_files
from autoprune.study.folder import StudyFolder


def picked_before(folder: StudyFolder, trials: Sequence[Trial]) -> tuple[Card, Path] | None:
    """Return the first of some trials that was picked and is whole; ``None`` if none is.

    Args:
        folder: the study's.
        trials: that would begin a contest now, the most promising first.
    """
    for trial in trials:
        target = folder.picked / str(trial.number)
        if not target.is_dir() or missing_files(target):
            continue
        try:
            return Card.from_json(parse_json((target / CARD_JSON).read_text(encoding="utf-8"))), target
        except (OSError, *DAMAGE):
            continue
    return None
