"""``autoprune search``: begin a study, or resume it."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.budget_options import budget_options, budget_text
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.main import INTERRUPTED
from autoprune.cli.output import echo, emit, open_display, verbosity_options
from autoprune.cli.ray_plan import check_gpus_per_worker, wanted_on_ray
from autoprune.cli.secrets import command_again, hidden, typed_arguments
from autoprune.cli.shared_options import artifacts_option, stored_study_options, study_argument, trust_option
from autoprune.cli.spec_options import spec_options
from autoprune.cli.worker_plan import AS_WORKER, GO_ON, MEASURE, WorkerPlan, planned_workers
from autoprune.core.cores import available_cores
from autoprune.core.user_code import as_its_owner_runs_it
from autoprune.errors import AutopruneError, UsageError

if TYPE_CHECKING:
    from autoprune.cli.many_workers import Ended, Start
    from autoprune.cli.read_request import Request
    from autoprune.core.trial import Trial
    from autoprune.loggers.protocol import Display
    from autoprune.loggers.worker_lines import WorkerLines
    from autoprune.search.session import Run
    from autoprune.study.spec import StudySpec


_FIRST = ("--budget-mflops", "--model", "--weights", "--data", "--dense-epochs", "--trials", "--workers")  # at first
_GIVE_BACK = ("SIGTERM", "SIGUSR1")  # by which a cluster says that the time is up


@dataclass(frozen=True)
class Places:
    """Where a study lies beside its folder.

    Attributes:
        storage: URL of the trials; ``None`` for SQLite in the folder.
        artifacts: where machines leave files for each other; ``None`` for nowhere.
    """

    storage: str | None
    artifacts: str | None


@click.command(
    cls=HeadedCommand,
    first=_FIRST,
    epilog="""\b
Examples:
  autoprune search --budget-mflops 50                  the main job: ResNet-56 on handwritten digits
  autoprune search studies/cifar10-resnet20            a recipe, with its own budget
  autoprune search mine --model net.py:build --weights net.safetensors --data imagefolder:data --budget-mflops 40%
  autoprune search mine --trials 80                    continue a study
  autoprune search mine --workers ray:8                by eight workers, on the cluster of RAY_ADDRESS
""",
)
@study_argument
@budget_options
@spec_options
@option(
    "--workers",
    heading=Heading.SEARCH,
    default="1",
    show_default=True,
    metavar="N|auto|cuda:0,…|ray[:N]",
    help="Processes that search at once, which share the cores; or the GPUs to use, one process on each. auto: one on "
    "each GPU, or on a CPU as many as train most together, measured once. ray:8: eight that Ray places on the cluster "
    "of RAY_ADDRESS; ray: one for each of its GPUs. The same command elsewhere is one more.",
)
@option(
    "--gpus-per-worker",
    heading=Heading.SEARCH,
    type=float,
    metavar="X",
    help="GPUs that each worker of --workers ray has to itself, or a fraction of one, as 0.5; default: 1.",
)
@click.option(AS_WORKER, "as_worker", hidden=True, help="Search as a worker of another command, by this name.")
@trust_option
@verbosity_options
@artifacts_option
@stored_study_options
def search(
    study: str | None,
    assignments: tuple[str, ...],
    workers: str,
    gpus_per_worker: float | None,
    as_worker: str | None,
    trust_code: bool,
    root: Path,
    storage: str | None,
    artifacts: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Search pruning policies for STUDY under a budget; the same command resumes an interrupted search.

    While a search is under way, the same command in another terminal, or on another machine with the same --storage of
    PostgreSQL and the same --artifacts, joins it as one more worker: they share the trials to come.

    STUDY is a folder, a name under --root, or a recipe that ships with autoprune; without it, the main job runs. A
    budget may be absolute (50) or relative to the dense network (40%); several limits hold together. One study serves
    any budget, so another budget later needs no new study. The exit code is 1 if no trial completed, or all of this run
    failed. One FLOP is one multiply–accumulate.
    """
    from autoprune.cli.read_request import check_is_main_job, layer_of, read_request

    values = layer_of(options, assignments)
    if study is None:
        check_is_main_job(values, root)
    request = read_request(study, root, values)
    places, asked_to_end = Places(storage, artifacts or None), _giving_back()
    if as_worker is not None:
        _work(request, places, trust_code, as_worker)
        return
    on_ray = _checked_for_ray(workers, gpus_per_worker)
    plans, start = ([], None) if on_ray is not None else _planned(workers, request)
    run: Run | Ended
    try:
        if on_ray is not None:
            run = _run_on_ray(on_ray, gpus_per_worker or 1.0, request.spec, storage)
        elif len(plans) > 1 or plans[0].environment:
            run = _run_many(plans, start)
        else:
            with as_its_owner_runs_it(request.spec.model.source), open_display() as display:
                run = _run(request, places, trust_code, display)
    except KeyboardInterrupt:
        echo(
            f"\nautoprune: interrupted; every finished trial is stored in {request.folder}. Resume with:\n"
            f"  {command_again(click.get_current_context())}",
            err=True,
        )
        sys.exit(0 if asked_to_end else INTERRUPTED)
    _conclude(run, request.spec, request.folder, storage, as_json)


def _giving_back() -> list[int]:
    """Make a polite kill end a search as cleanly as Ctrl-C; return the list that gets the signal's number then."""
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    for name in _GIVE_BACK:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), end)
    return received


def _checked_for_ray(workers: str, gpus_per_worker: float | None) -> int | None:
    """Return how many workers Ray is to place, 0 for as many as fit; ``None`` if it is not to place any.

    Raises:
        UsageError: if an option is not understood, or serves no purpose.
    """
    wanted = wanted_on_ray(workers)
    if gpus_per_worker is not None:
        if wanted is None:
            raise UsageError("--gpus-per-worker is for workers that Ray places; give --workers ray or leave it out")
        check_gpus_per_worker(gpus_per_worker)
    return wanted


def _planned(workers: str, request: Request) -> tuple[list[WorkerPlan], Start | None]:
    """Return the workers to start, and what starts them, ``None`` for the usual.

    ``auto`` is decided by the GPUs there are, or by measuring.
    """
    spec = request.spec
    if workers.strip().lower() != "auto":
        return planned_workers(workers, spec.runtime.threads), None
    from autoprune.cli.measure_workers import best_workers, gpus_here

    gpus = gpus_here() if spec.runtime.device in ("auto", "cuda") else []
    if gpus:
        return planned_workers(",".join(gpus), spec.runtime.threads), None
    if spec.runtime.threads:
        return planned_workers(str(max(1, available_cores() // spec.runtime.threads)), spec.runtime.threads), None
    with open_display() as display:
        return best_workers(typed_arguments(click.get_current_context()), request.folder, display.say)


def _work(request: Request, places: Places, trust_code: bool, role: str) -> None:
    """Search as one of several workers of a command, which shows what is written; measure before, if that is asked."""
    from autoprune.cli.many_workers import end_with_parent
    from autoprune.loggers.worker_lines import WorkerLines

    lines = WorkerLines(sys.stdout)
    end_with_parent()
    try:
        with as_its_owner_runs_it(request.spec.model.source):
            if role.startswith(MEASURE) and not _measure(request, float(role.removeprefix(MEASURE)), lines):
                return
            run = _run(request, places, trust_code, lines)
            lines.send("added", added=run.added, budget=run.budget.to_json())
    except AutopruneError as error:
        lines.send("error", error=type(error).__name__, message=hidden(str(error), click.get_current_context()))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _measure(request: Request, seconds: float, lines: WorkerLines) -> bool:
    """Say how much this process trains, as often as the command that started it asks; return whether to search then."""
    from autoprune.search.setup.measure_throughput import Throughput, measure_throughput
    from autoprune.study.folder import StudyFolder

    said = ""

    def wanted() -> int:
        nonlocal said
        lines.send("ready")
        said = sys.stdin.readline().strip()
        return int(said) if said.isdecimal() else 0

    def tell(found: Throughput) -> None:
        lines.send("measured", steps_per_second=found.steps_per_second, gigabytes=found.gigabytes)

    measure_throughput(request.spec, StudyFolder(request.folder), seconds, wanted, tell)
    return said == GO_ON


def _run_many(plans: Sequence[WorkerPlan], start: Start | None) -> Ended:
    from autoprune.cli.many_workers import ManyWorkers

    with open_display() as display:
        display.say(f"starting {len(plans)} workers")
        return ManyWorkers(typed_arguments(click.get_current_context()), plans, display, start).run()


def _run_on_ray(wanted: int, gpus_per_worker: float, spec: StudySpec, storage: str | None) -> Ended:
    from autoprune.cli.ray_workers import search_on_ray

    with open_display() as display:
        arguments = typed_arguments(click.get_current_context())
        return search_on_ray(arguments, wanted, gpus_per_worker, spec, storage, display)


def _run(request: Request, places: Places, trust_code: bool, display: Display) -> Run:
    from autoprune.study.folder import StudyFolder

    display.say("loading PyTorch")
    from autoprune.search.session import run_search

    folder = StudyFolder(request.folder)
    return run_search(
        *(request.spec, folder, display, places.storage, request.written),
        artifacts=places.artifacts,
        trust_code=trust_code,
    )


def _conclude(run: Run | Ended, spec: StudySpec, folder: Path, storage: str | None, as_json: bool) -> None:
    """Print the front, the study's folder, and the commands to type next."""
    from autoprune.loggers.safe_console import SafeConsole
    from autoprune.report.content.summary import summarise
    from autoprune.report.content.terminal import render
    from autoprune.study.disk_usage import size_of
    from autoprune.study.folder import StudyFolder
    from autoprune.study.view import open_view

    view, size = open_view(folder, storage), size_of(StudyFolder(folder))
    summary = summarise(view, run.budget)
    if as_json:
        emit({**summary.to_json(), "size": size.to_json()})
        _exit_if_nothing_came_of_it(view.trials, run.added)
        return
    if not run.added:
        echo(f"nothing to do: {len(view.trials)} of {spec.trials} trials are done; raise --trials for more\n")
    render(summary, SafeConsole())
    shown, budget = shlex.quote(str(folder)), _budget_options(spec)
    echo(f"\nstored in {folder}, {size.describe()}\nnext{' (with the same --storage)' if storage else ''}:")
    echo(f"  autoprune report {shown}")
    if summary.counts["completed"]:
        echo(f"  autoprune pick {shown}{budget}")
    echo(f"  autoprune search {shown}{budget} --trials {2 * len(view.trials)}")
    _exit_if_nothing_came_of_it(view.trials, run.added)


def _exit_if_nothing_came_of_it(trials: Sequence[Trial], added: int) -> None:
    """Say how many trials failed and why; exit with 1 if none of the study completed, or all of this run failed."""
    from autoprune.analysis.failures import failures_in_words
    from autoprune.core.trial import Completed, Failed

    failed = failures_in_words(trials)
    completed = sum(isinstance(trial.outcome, Completed) for trial in trials)
    if failed:
        echo(hidden(f"autoprune: {failed}", click.get_current_context()), err=True)
    if not completed:
        echo("autoprune: no trial completed, so there is nothing to pick from", err=True)
    if not completed or (added and all(isinstance(trial.outcome, Failed) for trial in trials[-added:])):
        sys.exit(1)


def _budget_options(spec: StudySpec) -> str:
    """Return the options for the same budget, to the last digit: any other budget gets baselines of its own."""
    return budget_text(spec.budget.model_dump(exclude_none=True))
