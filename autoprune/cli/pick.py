"""``autoprune pick``: finish one network of a stored study."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.completing import complete_trial
from autoprune.cli.main import INTERRUPTED, emit, json_option
from autoprune.cli.options import (
    asked_budget,
    budget_options,
    budget_text,
    budget_values,
    export_option,
    fraction,
    root_option,
    storage_option,
    study_argument,
)
from autoprune.cli.output import open_display, verbosity_options
from autoprune.errors import NothingFitsError, UsageError

if TYPE_CHECKING:
    from autoprune.core.export_formats import Wanted
    from autoprune.core.metrics import Budget
    from autoprune.core.trial import Trial
    from autoprune.export.card import Card
    from autoprune.study.view import StudyView

_MORE_TRIALS = 20  # that a search with a new budget is suggested to add


@click.command(
    epilog="""\b
Examples:
  autoprune pick --budget-mflops 50
  autoprune pick studies/cifar10-resnet20 --max-drop 1%
  autoprune pick --budget-mflops 50 --top 1 --no-compare
  autoprune pick --trial 17 --finetune-epochs 40
  autoprune pick --trial 17 --finetune-epochs 0          with the very weights that the search measured
  autoprune pick --budget-mflops 50 --export onnx,pt2
"""
)
@study_argument
@budget_options
@click.option(
    "--trial",
    "number",
    type=int,
    metavar="N",
    shell_complete=complete_trial,
    help="Finish this trial and no other.",
)
@click.option("--min-accuracy", metavar="P%", help="At least this validation accuracy, e.g. 97%.")
@click.option("--max-drop", metavar="P%", help="At most this many points of accuracy below the dense network.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    metavar="K",
    help="Candidates that begin the longer fine-tune; default: the study's pick.top. With only --max-drop or "
    "--min-accuracy and no budget the cheapest one is picked, so it is 1.",
)
@click.option(
    "--compare/--no-compare",
    default=None,
    help="Whether the uniform baseline of the same budget is finished too; default: the study's pick.compare.",
)
@click.option(
    "--finetune-epochs",
    type=float,
    help="Epochs of the longer fine-tune; default: the study's pick.epochs. 0: none, with the weights that the "
    "search measured, if they are kept.",
)
@export_option
@click.option("--force", is_flag=True, help="Replace a network that was picked before.")
@root_option
@storage_option
@verbosity_options
@json_option
def pick(
    study: str | None,
    number: int | None,
    min_accuracy: str | None,
    max_drop: str | None,
    top: int | None,
    compare: bool | None,
    finetune_epochs: float | None,
    export: str | None,
    force: bool,
    root: Path,
    storage: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Finish the best trial of STUDY within a budget, and write picked/<trial>/.

    The best few are rebuilt from the dense network and fine-tuned longer; the better half by validation loss
    goes on, twice with three or four of them, until one is left. It is scored once on test, beside the uniform
    baseline of the same budget after the same fine-tune, and written as model.safetensors, architecture.json,
    policy.json, card.md and model.onnx; autoprune.load(folder) gives it back. Every file is checked in a fresh
    process. Interrupted, the same command goes on. Without a budget, the study's last one counts. Exit code 3
    if nothing fits, 1 if an export that was asked for fails. One FLOP is one multiply–accumulate.
    """
    from autoprune.study.find_study import find_study
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    view = open_view(folder, storage)
    if top is not None and number is not None:
        raise UsageError("--top and --trial were both given; --trial finishes that one alone, so leave --top out")
    if number is not None and (min_accuracy is not None or max_drop is not None):
        raise UsageError(
            "--trial finishes that one alone, whatever its accuracy; leave --min-accuracy and --max-drop out"
        )
    trained = view.spec.pick.epochs if finetune_epochs is None else finetune_epochs
    usual = view.spec.pick.top if trained else 1  # without training there is no contest
    try:
        budget, trials = _choose(view, options, number, min_accuracy, max_drop, usual if top is None else top)
    except NothingFitsError as error:
        raise NothingFitsError(f"{error}:\n{_search_on(view, folder, options, storage)}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends as cleanly as Ctrl-C
    try:
        card, target = _finish(view, trials, budget, finetune_epochs, compare, force, _wanted(export))
    except KeyboardInterrupt:
        click.echo(
            f"\nautoprune: interrupted; the parts of the fine-tune that were finished are kept. Go on with:\n"
            f"  autoprune {shlex.join(sys.argv[1:])}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    conclude(card, target, as_json)


def conclude(card: Card, target: Path, as_json: bool) -> None:
    """Print a card, and leave with 1 if an export failed that was asked for by name."""
    from autoprune.export.picked_files import CARD
    from autoprune.pick.card_text import summary_text

    if as_json:
        emit({**card.to_json(), "folder": str(target)})
    else:
        click.echo(summary_text(card))
        click.echo(f"\nwritten: {target} (see {CARD}); load it with autoprune.load({str(target)!r})")
    for failed in card.written.failed:
        click.echo(f"autoprune: {failed.file} was not written; the other files are whole", err=True)
    if card.written.failed and card.written.wanted.is_explicit:
        sys.exit(1)


def _wanted(export: str | None) -> Wanted | None:
    from autoprune.core.export_formats import wanted_formats

    return None if export is None else wanted_formats(export)


def _choose(
    view: StudyView,
    options: Mapping[str, Any],
    number: int | None,
    min_accuracy: str | None,
    max_drop: str | None,
    top: int,
) -> tuple[Budget, list[Trial]]:
    from autoprune.analysis.pareto import best_few
    from autoprune.core.metrics import Budget
    from autoprune.core.trial import Completed

    if min_accuracy is not None and max_drop is not None:
        raise UsageError("--min-accuracy and --max-drop were both given; give one of them")
    asked = asked_budget(options, view.dense)
    if number is not None:
        found = next((trial for trial in view.trials if trial.number == number), None)
        if found is None or not isinstance(found.outcome, Completed):
            known = ", ".join(str(t.number) for t in view.trials if isinstance(t.outcome, Completed))
            raise UsageError(
                f"trial {number} is not a completed trial of this study: {_ending(found)}; completed: {known or 'none'}"
            )
        return asked or Budget(), [found]
    least = fraction("--min-accuracy", min_accuracy) if min_accuracy else None
    if max_drop:
        least = view.dense["accuracy"] - fraction("--max-drop", max_drop)
    budget = asked or (Budget() if least is not None else view.budget)
    return budget, best_few(view.trials, budget, top, least)


def _ending(trial: Trial | None) -> str:
    """Say why a trial cannot be finished."""
    from autoprune.loggers.console import how_it_ended

    if trial is None:
        return "it was not asked for yet, or is running, or was cut off and will be asked again"
    return f"it {how_it_ended(trial, None)}"


def _search_on(view: StudyView, folder: Path, options: Mapping[str, Any], storage: str | None) -> str:
    """Return the command that searches for what was asked; the budget is as it was written, or else the last one."""
    asked = budget_text(budget_values(options) or view.budget.to_json())
    command = f"  autoprune search {shlex.quote(str(folder))}{asked} --trials {len(view.trials) + _MORE_TRIALS}"
    return command + (" (with the same --storage)" if storage else "")


def _finish(
    view: StudyView,
    trials: list[Trial],
    budget: Budget,
    epochs: float | None,
    compare: bool | None,
    force: bool,
    wanted: Wanted | None,
) -> tuple[Card, Path]:
    display = open_display(live=False)
    from autoprune.pick.finish import finish_trials

    return finish_trials(view, trials, budget, display.say, epochs=epochs, compare=compare, force=force, wanted=wanted)
