"""What was picked before: the card and the folder of a trial that is finished already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoprune.core.export_formats import Wanted
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.trial import Trial
from autoprune.errors import UsageError
from autoprune.export.card import Card
from autoprune.export.card_origin import PickedTrial
from autoprune.export.picked_files import CARD_JSON, missing_files
from autoprune.study.folder import StudyFolder


def picked_before(
    folder: StudyFolder, trials: Sequence[Trial], epochs: float | None, wanted: Wanted | None
) -> tuple[Card, Path] | None:
    """Return the first of some trials that was picked and is whole; ``None`` if none is.

    Args:
        folder: the study's.
        trials: that would begin a contest now, the most promising first.
        epochs: length of the fine-tune that is asked for; ``None`` for any.
        wanted: formats that are asked for; ``None`` for any.

    Raises:
        UsageError: if that one was finished in another way than is asked for.
    """
    for trial in trials:
        target = folder.picked / str(trial.number)
        if not target.is_dir() or missing_files(target):
            continue
        try:
            card = Card.from_json(parse_json((target / CARD_JSON).read_text(encoding="utf-8")))
        except (OSError, *DAMAGE):
            continue
        _check_as_asked(card, target, epochs, wanted)
        return card, target
    return None


def _check_as_asked(card: Card, target: Path, epochs: float | None, wanted: Wanted | None) -> None:
    origin, asked = card.origin, set(wanted.formats) if wanted is not None and wanted.is_explicit else set[str]()
    exported = card.written.exported
    is_untrained = any(one.int8 is not None and one.int8.training is None for one in exported)
    lacking = sorted(asked - set(card.written.exports))
    if isinstance(origin, PickedTrial) and epochs is not None and origin.finetune.epochs != epochs:
        other = f"with {origin.finetune.epochs:g} epochs of fine-tuning, and epochs={epochs:g} is asked for now"
    elif lacking:
        other = f"without {', '.join(lacking)}, which is asked for now"
    elif wanted is not None and wanted.qat and is_untrained:
        other = "without training for int8 (qat), which is asked for now"
    else:
        return
    raise UsageError(
        f"trial {target.name} was picked before {other}; give force=True to finish it again and replace "
        f"{str(target)!r}, or leave that out to get it as it is"
    )
