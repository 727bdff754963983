"""``autoprune pick``: finish one network of a stored study."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.analysis.quality_limits import fraction
from autoprune.cli.budget_options import budget_options, budget_text, budget_values
from autoprune.cli.completed_values import complete_trial
from autoprune.cli.conclude import conclude
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.main import INTERRUPTED
from autoprune.cli.output import echo, open_display, verbosity_options
from autoprune.cli.quality_options import AskedQuality, quality_options
from autoprune.cli.secrets import command_again
from autoprune.cli.shared_options import (
    export_option,
    int8_options,
    prefer_option,
    stored_study_options,
    study_argument,
    trust_option,
)
from autoprune.cli.worker_plan import planned_workers
from autoprune.core.preference import Preference
from autoprune.core.user_code import as_its_owner_runs_it
from autoprune.errors import NothingFitsError, UsageError

if TYPE_CHECKING:
    from autoprune.export.card import Card
    from autoprune.pick.choose_trials import Wish
    from autoprune.study.view import StudyView

_QUALITY = ("min_accuracy", "max_drop", "minima", "maxima")
_MORE_TRIALS = 20  # that a search with a new budget is suggested to add


@dataclass(frozen=True)
class PickRequest:
    """The options of ``autoprune pick``, as they were written.

    Attributes:
        limits: metric → limit; empty for the study's last budget.
        number: the one trial to finish, ``None`` for the best within the budget.
        quality: how good the network must be.
        top: candidates that begin the longer fine-tune, ``None`` for the study's own.
        prefer: ``accuracy``, ``latency`` or ``size``; ``None`` for the study's own.
        compare: whether the uniform baseline is finished too, ``None`` for the study's own.
        finetune_epochs: epochs of the longer fine-tune, ``None`` for the study's own.
        export: further files, ``None`` for the study's own.
        int8: whether int8 is wanted besides.
        int8_max_drop: how much may be lost in int8, such as ``1%``; ``None`` for the study's own.
        qat: whether it is trained with the rounding of int8; ``None`` for the study's own.
        force: whether to replace a folder.
        trust_code: whether code may be run that an imported study names.
        workers: processes that fine-tune at once.
    """

    limits: Mapping[str, str]
    number: int | None = None
    quality: AskedQuality = field(default_factory=AskedQuality)
    top: int | None = None
    prefer: Preference | None = None
    compare: bool | None = None
    finetune_epochs: float | None = None
    export: str | None = None
    int8: bool = False
    int8_max_drop: str | None = None
    qat: bool | None = None
    force: bool = False
    trust_code: bool = False
    workers: str = "1"

    @property
    def wish(self) -> Wish:
        """Return which network is asked for."""
        from autoprune.pick.choose_trials import Wish

        return Wish(self.limits, self.number, self.quality.limits, self.top, self.finetune_epochs, self.prefer)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> PickRequest:
        """Return the request of the command's options.

        Raises:
            UsageError: if options were given together that exclude each other.
        """
        from autoprune.pick.goes_together import check_goes_together

        asked = {name: options[name] for name in _QUALITY if name in options}
        own = {name: value for name, value in options.items() if not name.startswith("budget_") and name not in asked}
        request = cls(budget_values(options), quality=AskedQuality(**asked), **own)
        flags, both = request.quality.flags, ("--min-accuracy", "--max-drop")
        check_goes_together(
            trial=request.number,
            top=request.top,
            prefer=request.prefer,
            limits=() if not flags else both if set(flags) <= set(both) else flags,
            epochs=request.finetune_epochs,
            qat=request.qat,
            called=lambda name: f"--{'finetune-epochs' if name == 'epochs' else name}",
        )
        return request


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune pick --budget-mflops 50
  autoprune pick studies/cifar10-resnet20 --max-drop 1%
  autoprune pick studies/depth --max rmse=0.5 --min accuracy=97%
  autoprune pick --budget-mflops 50 --top 1 --no-compare
  autoprune pick --trial 17 --finetune-epochs 40
  autoprune pick --trial 17 --finetune-epochs 0          with the very weights that the search measured
  autoprune pick --budget-mflops 50 --export onnx,pt2
  autoprune pick --max-drop 1% --prefer latency --int8
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
@quality_options
@prefer_option
@option(
    "--top",
    heading=Heading.CHOICE,
    type=click.IntRange(min=1),
    metavar="K",
    help="Candidates that begin the longer fine-tune; default: the study's pick.top. With a limit of quality and "
    "no budget the cheapest one is picked, so it is 1.",
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
@option(
    "--workers",
    heading=Heading.TRAINING,
    default="1",
    show_default=True,
    metavar="N|cuda:0,…",
    help="Processes that fine-tune candidates at once, which share the cores; or the GPUs to use, one process on each. "
    "With the same --threads of the search the result is the same.",
)
@option(
    "--qat/--no-qat",
    heading=Heading.TRAINING,
    default=None,
    help="Whether the last quarter of the fine-tune is taken once more with the rounding of int8, for --int8; the "
    "result is kept if it is better in int8 beyond noise. Default: the study's pick.qat.",
)
@export_option
@int8_options
@option("--force", heading=Heading.OUTPUT, is_flag=True, help="Replace a network that was picked before.")
@trust_option
@verbosity_options
@stored_study_options
def pick(study: str | None, root: Path, storage: str | None, as_json: bool, **options: Any) -> None:
    """Finish the best trial of STUDY within a budget, and write picked/<trial>/.

    It is rebuilt from the dense network and fine-tuned longer. With --prefer accuracy or --top several begin, and
    the better half by validation loss goes on, twice with three or four of them, until one is left. It is scored
    once on test, beside the uniform baseline of the same budget after the same fine-tune, and written as
    model.safetensors, architecture.json, policy.json, card.md and model.onnx; autoprune.load(folder) gives it back.
    Every file is checked in a fresh process. The same command resumes an interrupted pick. Where no trial lies near
    a budget that the study has looked at, a network is solved for exactly that budget. Without a budget, the study's
    last one counts. The exit code is 3 if nothing fits, 1 if an export that you named fails. One FLOP is one
    multiply–accumulate.
    """
    from autoprune.study.find_study import find_study
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    view = open_view(folder, storage)
    request = PickRequest.of(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends as cleanly as Ctrl-C
    try:
        with as_its_owner_runs_it(view.spec.model.source):
            card, target = _pick(view, request, storage)
    except NothingFitsError as error:
        raise NothingFitsError(f"{error}:\n{_search_on(view, folder, request.limits, storage)}") from error
    except KeyboardInterrupt:
        echo(
            f"\nautoprune: interrupted; the parts of the fine-tune that were finished are kept. Resume with:\n"
            f"  {command_again(click.get_current_context())}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    conclude(card, target, as_json)


def _search_on(view: StudyView, folder: Path, limits: Mapping[str, str], storage: str | None) -> str:
    """Return the command that searches for these limits as they were written, or else for the last budget."""
    asked = budget_text(limits or view.budget.to_json())
    command = f"  autoprune search {shlex.quote(str(folder))}{asked} --trials {len(view.trials) + _MORE_TRIALS}"
    return command + (" (with the same --storage)" if storage else "")


def _pick(view: StudyView, request: PickRequest, storage: str | None) -> tuple[Card, Path]:
    from autoprune.pick.choose_formats import choose_formats

    drop = request.int8_max_drop
    wanted = choose_formats(
        view,
        request.export,
        int8=request.int8,
        int8_max_drop=None if drop is None else fraction("--int8-max-drop", drop),
        quality=request.quality.limits(view.spec.qualities, view.dense),
        qat=request.qat,
    )
    display = open_display(live=False)
    from autoprune.pick.pick_network import Order, pick_network

    order = Order(
        request.wish,
        wanted,
        compare=request.compare,
        force=request.force,
        trust_code=request.trust_code,
        workers=_workers(view, request.workers),
    )
    return pick_network(view, order, display.say, storage)


def _workers(view: StudyView, wanted: str) -> list[Mapping[str, str]]:
    """Return the variables of each process that is asked for.

    Raises:
        UsageError: if that is not understood, or the machine has no room for so many.
    """
    if wanted.strip().lower() == "auto":
        raise UsageError("pick measures no number of workers; give --workers a number, or GPUs, as cuda:0,cuda:1")
    return [plan.environment for plan in planned_workers(wanted, view.spec.runtime.threads or 1)]
