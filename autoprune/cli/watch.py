"""``autoprune watch``: a running search, seen from a second terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.budget_options import budget_options, budget_values
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import echo, emit
from autoprune.cli.shared_options import stored_study_options, study_argument

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from autoprune.report.live import Snapshot

RESTING = 5  # a look may take a fifth of the time between two: reading thousands of trials must not slow the search


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune watch
  autoprune watch studies/cifar10-resnet20 --budget-mflops 15
  autoprune watch --once
  autoprune watch --json | jq .seconds_left
""",
)
@study_argument
@budget_options
@option("--once", heading=Heading.SHOWN, is_flag=True, help="Show one moment and exit.")
@option(
    "--every",
    heading=Heading.SHOWN,
    type=click.FloatRange(min=0.2),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks; more where reading the study takes long.",
)
@stored_study_options
def watch(
    study: str | None, once: bool, every: float, root: Path, storage: str | None, as_json: bool, **options: Any
) -> None:
    """Watch a search of STUDY that is running in another terminal; nothing is written.

    It shows how many trials are finished, stopped and failed, the time left as estimated from recent trials, the best
    network within the budget, and the front beside its baselines. It ends when the study has its trials, or with
    Ctrl-C. Where the output is not a terminal, it prints a line when something changes. --json prints one moment. One
    FLOP is one multiply–accumulate.
    """
    from autoprune.study.find_study import find_study

    folder, _ = find_study(study, root)
    follow(folder, storage, budget_values(options), every=every, once=once, as_json=as_json)


def follow(
    folder: Path, storage: str | None, limits: Mapping[str, str], *, every: float = 3.0, once: bool, as_json: bool
) -> None:
    """Show a study again and again until it is done, or once.

    Args:
        folder: the study's.
        storage: URL of its trials, ``None`` for SQLite in the folder.
        limits: metric → limit as it was written; empty for the study's last budget.
        every: seconds between two looks.
        once: whether to show one moment only.
        as_json: whether to print one moment as a JSON document.
    """
    from autoprune.core.budget import Budget
    from autoprune.loggers.safe_console import SafeConsole
    from autoprune.report.live import take_snapshot

    budget = Budget.parse(limits) if limits else None
    shot = take_snapshot(folder, storage, budget)
    console = SafeConsole()
    if as_json:
        emit(shot.to_json())
        return
    if once:
        console.print(picture(shot, console))
        return
    looks = _looks(shot, every, lambda: take_snapshot(folder, storage, budget))
    try:
        if console.is_terminal and not console.is_dumb_terminal:
            _live(looks, console)
        else:
            _lines(looks)
    except KeyboardInterrupt:
        return  # a watcher exits with Ctrl-C


def _looks(shot: Snapshot, every: float, look: Callable[[], Snapshot]) -> Iterator[Snapshot]:
    """Yield one snapshot after another until the study is done; a study that is slow to read is read less often."""
    cost = 0.0
    yield shot
    while not shot.is_done:
        time.sleep(max(every, RESTING * cost))
        began = time.perf_counter()
        shot = look()
        cost = time.perf_counter() - began
        yield shot


def _live(looks: Iterator[Snapshot], console: Console) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for shot in looks:
            live.update(picture(shot, console), refresh=True)


def _lines(looks: Iterator[Snapshot]) -> None:
    from autoprune.report.live import news

    before = None
    for shot in looks:
        for line in news(before, shot):
            echo(line)
        before = shot


def picture(shot: Snapshot, console: Console) -> RenderableType:
    """Return what is shown of one moment, cut to the height of the console."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from autoprune.report.content.terminal import front_table, headline
    from autoprune.report.live import best_line

    title = headline(shot.summary)[0] if shot.summary else shot.view.spec.name
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=max(shot.wanted, 1), completed=shot.finished, width=30), Text(shot.progress_line()))
    lines: list[RenderableType] = [Text(title, style="bold"), bar, Text(shot.state_line()), Text(best_line(shot))]
    lines += [Text(line, style="dim") for line in shot.worker_lines()]
    if shot.searching and shot.doing and shot.summary and not shot.worker_lines():
        lines.append(Text(f"now: {shot.doing}", style="dim"))
    if shot.summary is None:
        return Group(*lines)
    room = max(3, console.height - len(lines) - 8) if console.is_terminal else len(shot.summary.rows)
    rows = shot.summary.rows
    kept = sorted(rows, key=lambda row: not (row.is_best or row.is_baseline))[:room]
    shown = replace(shot.summary, rows=tuple(row for row in rows if row in kept))
    table = front_table(shown, console.width)
    left_out = len(rows) - len(shown.rows)
    more = [Text(f"{left_out} more on the front: `autoprune report`", style="dim")] if left_out else []
    return Group(*lines, Text(""), table, *more)
