"""``autoprune pick``: finish one network of a stored study."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.budget_options import asked_budget, budget_options, budget_text, budget_values
from autoprune.cli.completed_values import complete_trial
from autoprune.cli.conclude import conclude
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.main import INTERRUPTED
from autoprune.cli.output import echo, open_display, verbosity_options
from autoprune.cli.secrets import command_again
from autoprune.cli.shared_options import export_option, fraction, stored_study_options, study_argument, trust_option
from autoprune.core.user_code import as_its_owner_runs_it
from autoprune.errors import NothingFitsError, UsageError

if TYPE_CHECKING:
    from autoprune.core.budget import Budget
    from autoprune.core.trial import Trial
    from autoprune.export.card import Card
    from autoprune.study.view import StudyView

_MORE_TRIALS = 20  # that a search with a new budget is suggested to add


@dataclass(frozen=True)
class PickRequest:
    """The options of ``autoprune pick``, as they were written.

    Attributes:
        limits: metric → limit; empty for the study's last budget.
        number: the one trial to finish, ``None`` for the best within the budget.
        min_accuracy: least validation accuracy, such as ``97%``.
        max_drop: most points of accuracy below the dense network, such as ``1%``.
        top: candidates that begin the longer fine-tune, ``None`` for the study's own.
        compare: whether the uniform baseline is finished too, ``None`` for the study's own.
        finetune_epochs: epochs of the longer fine-tune, ``None`` for the study's own.
        export: further files, ``None`` for the study's own.
        force: whether to replace a folder.
        trust_code: whether code may be run that an imported study names.
    """

    limits: Mapping[str, str]
    number: int | None = None
    min_accuracy: str | None = None
    max_drop: str | None = None
    top: int | None = None
    compare: bool | None = None
    finetune_epochs: float | None = None
    export: str | None = None
    force: bool = False
    trust_code: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> PickRequest:
        """Return the request of the command's options.

        Raises:
            UsageError: if options were given together that exclude each other.
        """
        own = {name: value for name, value in options.items() if not name.startswith("budget_")}
        request = cls(budget_values(options), **own)
        has_accuracy = request.min_accuracy is not None or request.max_drop is not None
        if request.number is not None and request.top is not None:
            raise UsageError("--top and --trial were both given; --trial finishes one trial alone, so leave --top out")
        if request.number is not None and has_accuracy:
            raise UsageError(
                "--trial finishes one trial alone, whatever its accuracy; leave --min-accuracy and --max-drop out"
            )
        if request.min_accuracy is not None and request.max_drop is not None:
            raise UsageError("--min-accuracy and --max-drop were both given; give one of them")
        return request

    def least_accuracy(self, dense: float) -> float | None:
        """Return the least validation accuracy in [0, 1], given the dense network's; ``None`` for any."""
        if self.max_drop is not None:
            return dense - fraction("--max-drop", self.max_drop)
        return None if self.min_accuracy is None else fraction("--min-accuracy", self.min_accuracy)


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune pick --budget-mflops 50
  autoprune pick studies/cifar10-resnet20 --max-drop 1%
  autoprune pick --budget-mflops 50 --top 1 --no-compare
  autoprune pick --trial 17 --finetune-epochs 40
  autoprune pick --trial 17 --finetune-epochs 0          with the very weights that the search measured
  autoprune pick --budget-mflops 50 --export onnx,pt2
""",
)
@study_argument
@budget_options
@option(
    "--trial",
    "number",
    heading=Heading.CHOICE,
    type=int,
    metavar="N",
    shell_complete=complete_trial,
    help="Finish this trial and no other.",
)
@option("--min-accuracy", heading=Heading.CHOICE, metavar="P%", help="At least this validation accuracy, e.g. 97%.")
@option(
    "--max-drop",
    heading=Heading.CHOICE,
    metavar="P%",
    help="At most this many points of accuracy below the dense network.",
)
@option(
    "--top",
    heading=Heading.CHOICE,
    type=click.IntRange(min=1),
    metavar="K",
    help="Candidates that begin the longer fine-tune; default: the study's pick.top. With --max-drop or "
    "--min-accuracy and no budget the cheapest one is picked, so it is 1.",
)
@option(
    "--compare/--no-compare",
    heading=Heading.CHOICE,
    default=None,
    help="Whether the uniform baseline of the same budget is finished too; default: the study's pick.compare.",
)
@option(
    "--finetune-epochs",
    heading=Heading.TRAINING,
    type=float,
    help="Epochs of the longer fine-tune; default: the study's pick.epochs. 0: none, with the weights that the "
    "search measured, if they are kept.",
)
@export_option
@option("--force", heading=Heading.OUTPUT, is_flag=True, help="Replace a network that was picked before.")
@trust_option
@verbosity_options
@stored_study_options
def pick(study: str | None, root: Path, storage: str | None, as_json: bool, **options: Any) -> None:
    """Finish the best trial of STUDY within a budget, and write picked/<trial>/.

    The best few are rebuilt from the dense network and fine-tuned longer; the better half by validation loss
    goes on, twice with three or four of them, until one is left. It is scored once on test, beside the uniform
    baseline of the same budget after the same fine-tune, and written as model.safetensors, architecture.json,
    policy.json, card.md and model.onnx; autoprune.load(folder) gives it back. Every file is checked in a fresh
    process. The same command resumes an interrupted pick. Without a budget, the study's last one counts. The exit
    code is 3 if nothing fits, 1 if an export that you named fails. One FLOP is one multiply–accumulate.
    """
    from autoprune.study.find_study import find_study
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    view = open_view(folder, storage)
    request = PickRequest.of(options)
    try:
        budget, trials = choose_trials(view, request)
    except NothingFitsError as error:
        raise NothingFitsError(f"{error}:\n{_search_on(view, folder, request.limits, storage)}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends as cleanly as Ctrl-C
    try:
        with as_its_owner_runs_it(view.spec.model.source):
            card, target = _finish(view, trials, budget, request)
    except KeyboardInterrupt:
        echo(
            f"\nautoprune: interrupted; the parts of the fine-tune that were finished are kept. Resume with:\n"
            f"  {command_again(click.get_current_context())}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    conclude(card, target, as_json)


def choose_trials(view: StudyView, request: PickRequest) -> tuple[Budget, list[Trial]]:
    """Return the absolute budget that counts, and the trials that begin the longer fine-tune, the best first.

    Raises:
        NothingFitsError: if no trial meets the request.
        UsageError: if the trial that was named is not completed, or a share cannot be read.
        BudgetError: if a limit is malformed, or on what the study does not measure.
    """
    from autoprune.analysis.pareto import best_few
    from autoprune.core.budget import Budget

    asked = asked_budget(request.limits, view.dense)
    if request.number is not None:
        return asked or Budget(), [_completed(view, request.number)]
    least = request.least_accuracy(view.dense["accuracy"])
    budget = asked or (Budget() if least is not None else view.budget)
    epochs = view.spec.pick.epochs if request.finetune_epochs is None else request.finetune_epochs
    usual = view.spec.pick.top if epochs else 1  # without training there is no contest
    return budget, best_few(view.trials, budget, usual if request.top is None else request.top, least)


def _completed(view: StudyView, number: int) -> Trial:
    """Return a completed trial by its number.

    Raises:
        UsageError: if it is none.
    """
    from autoprune.core.trial import Completed

    found = next((trial for trial in view.trials if trial.number == number), None)
    if found is None or not isinstance(found.outcome, Completed):
        known = ", ".join(str(trial.number) for trial in view.trials if isinstance(trial.outcome, Completed))
        raise UsageError(
            f"trial {number} is not a completed trial of this study: {_ending(found)}; completed: {known or 'none'}"
        )
    return found


def _ending(trial: Trial | None) -> str:
    """Return why a trial cannot be finished."""
    from autoprune.loggers.console import how_it_ended

    if trial is None:
        return "it has not started, is running, or was interrupted and will be evaluated again"
    return f"it {how_it_ended(trial, None)}"


def _search_on(view: StudyView, folder: Path, limits: Mapping[str, str], storage: str | None) -> str:
    """Return the command that searches for these limits as they were written, or else for the last budget."""
    asked = budget_text(limits or view.budget.to_json())
    command = f"  autoprune search {shlex.quote(str(folder))}{asked} --trials {len(view.trials) + _MORE_TRIALS}"
    return command + (" (with the same --storage)" if storage else "")


def _finish(view: StudyView, trials: list[Trial], budget: Budget, request: PickRequest) -> tuple[Card, Path]:
    from autoprune.core.export_formats import wanted_formats

    wanted = None if request.export is None else wanted_formats(request.export)
    display = open_display(live=False)
    from autoprune.pick.finish import finish_trials

    return finish_trials(
        view,
        trials,
        budget,
        display.say,
        epochs=request.finetune_epochs,
        compare=request.compare,
        force=request.force,
        wanted=wanted,
        trust_code=request.trust_code,
    )
