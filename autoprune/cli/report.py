"""``autoprune report``: the front of a stored study."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import click

from autoprune.cli.budget_options import asked_budget, budget_options, budget_values
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import emit
from autoprune.cli.shared_options import stored_study_options, study_argument
from autoprune.errors import UsageError


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune report
  autoprune report studies/cifar10-resnet20 --budget-mflops 15
  autoprune report --live
  autoprune report --open
  autoprune report --json | jq .best
""",
)
@study_argument
@budget_options
@option(
    "--all",
    "show_all",
    heading=Heading.SHOWN,
    is_flag=True,
    help="Every non-dominated trial, differences within noise included.",
)
@option(
    "--live",
    heading=Heading.SHOWN,
    is_flag=True,
    help="Watch a search that is running, as `autoprune watch` does; write nothing.",
)
@option("--open", "open_page", heading=Heading.SHOWN, is_flag=True, help="Open report.html in the browser.")
@stored_study_options
def report(
    study: str | None,
    show_all: bool,
    live: bool,
    open_page: bool,
    root: Path,
    storage: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the front of STUDY beside its baselines, and write report.html, front.csv, .json, .png and .svg.

    report.html is a page to choose on: set a budget, and it shows the network to pick, its policy and the command.
    It is one file that loads nothing, so you can send it to somebody.

    The front holds the completed trials that no other trial beats beyond noise: accuracies within their
    standard error count as equal. Notes compare the best trial with each baseline and the dense network, with
    95 % intervals. Where sensitivity was measured, sensitivity.png is drawn too. Reading is safe beside
    a running search. One FLOP is one multiply–accumulate.
    """
    from rich.console import Console

    from autoprune.report.content.terminal import render
    from autoprune.report.write_report import write_report
    from autoprune.study.find_study import find_study
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    if live:
        from autoprune.cli.watch import follow

        if show_all or open_page:
            raise UsageError("--live writes nothing and shows the front beyond noise; leave out --all and --open")
        follow(folder, storage, budget_values(options), once=False, as_json=as_json)
        return
    view = open_view(folder, storage)
    summary, files = write_report(
        view, asked_budget(budget_values(options), view.dense), not show_all, elsewhere=bool(storage)
    )
    if open_page and not webbrowser.open(files[0].resolve().as_uri()):
        click.echo(f"no browser could be started; open {files[0]} in a browser", err=True)
    if as_json:
        emit({**summary.to_json(), "files": [str(path) for path in files]})
        return
    render(summary, Console())
    click.echo("\nwritten: " + ", ".join(str(path) for path in files))
