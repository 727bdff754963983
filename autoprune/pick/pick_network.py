"""From what is asked for to a finished network: the one way of ``autoprune pick`` and of ``Study.pick``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.export_formats import Wanted
from autoprune.core.notify import Notify
from autoprune.export.card import Card
from autoprune.pick.choose_trials import Wish, choose_trials
from autoprune.pick.finish import finish_trials
from autoprune.pick.picked_before import picked_before
from autoprune.pick.solve_budget import solved_trial
from autoprune.study.view import StudyView


@dataclass(frozen=True)
class Order:
    """What is asked of a pick.

    Attributes:
        wish: which network, and how long it is fine-tuned.
        wanted: formats that it is exported to.
        names_formats: whether these were named for this very pick, and not by the study.
        compare: whether the uniform baseline is finished too; ``None`` for the study's own.
        force: whether a folder of an earlier pick is replaced.
        takes_known: whether what was picked before is given back as it is, unless it is to be replaced.
        trust_code: whether code may be run that an imported study names; remembered.
        workers: of each process that fine-tunes, the variables of its environment that differ.
    """

    wish: Wish
    wanted: Wanted
    names_formats: bool = True
    compare: bool | None = None
    force: bool = False
    takes_known: bool = False
    trust_code: bool = False
    workers: Sequence[Mapping[str, str]] = ()


def pick_network(view: StudyView, order: Order, notify: Notify, storage: str | None = None) -> tuple[Card, Path]:
    """Choose trials, or solve for the budget where none is near; finish the best, and return its card and folder.

    Args:
        view: the study.
        order: what is asked for.
        notify: called with a sentence when something begins or ends.
        storage: where the trials are; ``None`` for the study's folder.

    Raises:
        NothingFitsError: if no trial meets the wish.
        UsageError: if it was picked before in another way, or what is asked for does not go together.
        AutopruneError: if the network cannot be finished, written or checked.
    """
    wish, study = order.wish, None
    budget, trials = choose_trials(view, wish)
    if order.takes_known and not order.force:
        asked_for = order.wanted if order.names_formats else None
        known = picked_before(view.folder, trials, wish.epochs, asked_for)
        if known is not None:
            return known
    if not trials:
        solved, study = solved_trial(view, budget, notify, storage, trust_code=order.trust_code)
        trials = [solved]
    return finish_trials(
        view,
        trials,
        budget,
        notify,
        epochs=wish.epochs,
        compare=order.compare,
        force=order.force,
        wanted=order.wanted,
        prefer=wish.prefer if wish.number is None else "accuracy",
        trust_code=order.trust_code,
        workers=order.workers,
        study=study,
    )
