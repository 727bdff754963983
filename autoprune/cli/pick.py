"""``autoprune pick``: finish one network of a stored study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.main import emit, json_option
from autoprune.cli.options import asked_budget, budget_options, fraction, root_option, storage_option, study_argument
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.metrics import Budget
    from autoprune.study.view import StudyView
    from autoprune.trial import Trial


@click.command(
    epilog="""\b
Examples:
  autoprune pick --budget-mflops 50
  autoprune pick studies/cifar10-resnet20 --max-drop 1%
  autoprune pick --trial 17 --finetune-epochs 40
"""
)
@study_argument
@budget_options
@click.option("--trial", "number", type=int, metavar="N", help="Pick this trial.")
@click.option("--min-accuracy", metavar="P%", help="At least this validation accuracy, e.g. 97%.")
@click.option("--max-drop", metavar="P%", help="At most this many points of accuracy below the dense network.")
@click.option("--finetune-epochs", type=float, help="Epochs of the longer fine-tune; default: the study's pick.epochs.")
@click.option("--force", is_flag=True, help="Replace a network that was picked before.")
@root_option
@storage_option
@json_option
def pick(
    study: str | None,
    number: int | None,
    min_accuracy: str | None,
    max_drop: str | None,
    finetune_epochs: float | None,
    force: bool,
    root: Path,
    storage: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Finish the best trial of STUDY within a budget, and write picked/<trial>/.

    The network is rebuilt from the dense one, fine-tuned longer, scored once on test, and written as
    model.safetensors, recipe.json and card.md; autoprune.load(folder) gives it back. Without a budget,
    the study's last one counts. Exit code 3 if nothing fits. One FLOP is one multiply–accumulate.
    """
    from autoprune.recipes import find_study
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    view = open_view(folder, storage)
    budget, trial = _choose(view, options, number, min_accuracy, max_drop)
    card, target = _finish(view, trial, budget, finetune_epochs, force)
    if as_json:
        emit({**card, "folder": str(target)})
        return
    from autoprune.pick import CARD, card_text

    click.echo(card_text(card).partition("\n- fine-tune")[0])
    click.echo(f"\nwritten: {target} (see {CARD}); load it with autoprune.load({str(target)!r})")


def _choose(
    view: StudyView, options: dict[str, Any], number: int | None, min_accuracy: str | None, max_drop: str | None
) -> tuple[Budget, Trial]:
    from autoprune.metrics import Budget
    from autoprune.pareto import choose
    from autoprune.trial import Completed

    if min_accuracy is not None and max_drop is not None:
        raise UsageError("--min-accuracy and --max-drop were both given; give one of them")
    asked = asked_budget(options, view.dense)
    if number is not None:
        found = next((trial for trial in view.trials if trial.number == number), None)
        if found is None or not isinstance(found.outcome, Completed):
            known = ", ".join(str(t.number) for t in view.trials if isinstance(t.outcome, Completed))
            raise UsageError(f"trial {number} is not a completed trial of this study; completed: {known or 'none'}")
        return asked or Budget(), found
    least = fraction("--min-accuracy", min_accuracy) if min_accuracy else None
    if max_drop:
        least = view.dense["accuracy"] - fraction("--max-drop", max_drop)
    budget = asked or (Budget() if least is not None else view.budget)
    return budget, choose(view.trials, budget, least)


def _finish(
    view: StudyView, trial: Trial, budget: Budget, epochs: float | None, force: bool
) -> tuple[dict[str, Any], Path]:
    from rich.console import Console

    from autoprune.progress import PlainDisplay

    display = PlainDisplay(Console(stderr=True))
    from autoprune.finish import finish_trial

    return finish_trial(view, trial, budget, display.say, epochs=epochs, force=force)
