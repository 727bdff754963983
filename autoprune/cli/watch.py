"""``autoprune watch``: a running search, seen from a second terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.main import emit, json_option
from autoprune.cli.options import budget_options, budget_values, root_option, storage_option, study_argument

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from autoprune.report.live import Snapshot

RESTING = 5  # a look may take a fifth of the time between two: reading thousands of trials must not slow the search


@click.command(
    epilog="""\b
Examples:
  autoprune watch
  autoprune watch studies/cifar10-resnet20 --budget-mflops 15
  autoprune watch --once
  autoprune watch --json | jq .seconds_left
"""
)
@study_argument
@budget_options
@click.option("--once", is_flag=True, help="Show one moment, and end.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks; more where reading the study takes long.",
)
@root_option
@storage_option
@json_option
def watch(
    study: str | None, once: bool, every: float, root: Path, storage: str | None, as_json: bool, **options: Any
) -> None:
    """Watch a search of STUDY that is running in another terminal; nothing is written.

    Shown are how many trials are finished, stopped and failed, the time left by what recent trials took, the best
    network within the budget, and the front beside its baselines. It ends when the study has its trials, or with
    Ctrl-C. Where the output is no terminal, lines are printed as something changes. --json prints one moment. One FLOP
    is one multiply–accumulate.
    """
    from autoprune.study.find_study import find_study

    folder, _ = find_study(study, root)
    follow(folder, storage, options, every=every, once=once, as_json=as_json)


def follow(
    folder: Path, storage: str | None, options: dict[str, Any], *, every: float = 3.0, once: bool, as_json: bool
) -> None:
    """Show a study again and again until it is done, or once."""
    from rich.console import Console

    from autoprune.core.metrics import Budget
    from autoprune.report.live import take_snapshot

    limits = budget_values(options)
    budget = Budget.parse(limits) if limits else None
    shot = take_snapshot(folder, storage, budget)
    console = Console()
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
        return  # the way a watcher leaves


def _looks(shot: Snapshot, every: float, look: Callable[[], Snapshot]) -> Iterator[Snapshot]:
    """Yield a moment after the other until the study is done; what takes long to read is read less often."""
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
            click.echo(line)
        before = shot


def picture(shot: Snapshot, console: Console) -> RenderableType:
    """Return everything that is shown of a moment, cut to the height of the console."""
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
    if shot.searching and shot.doing and shot.summary:
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
