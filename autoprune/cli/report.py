"""``autoprune report``: the front of a stored study."""

from __future__ import annotations

import gc
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from autoprune.cli.budget_options import asked_budget, budget_options, budget_values
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import echo, emit
from autoprune.cli.secrets import hidden
from autoprune.cli.shared_options import prefer_option, stored_study_options, study_argument
from autoprune.core.preference import Preference
from autoprune.errors import StudyError, UsageError


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
@prefer_option
@stored_study_options
def report(
    study: str | None,
    show_all: bool,
    live: bool,
    open_page: bool,
    prefer: Preference | None,
    root: Path,
    storage: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the front of STUDY beside its baselines, and write report.html, front.csv, .json, .png and .svg.

    report.html is a page to choose on: set a budget, and it shows the network to pick, its policy and the command.
    It is one file that loads nothing, so you can send it to somebody.

    The front holds the completed trials that no other trial beats beyond noise: scores within their
    standard error count as equal. Notes compare the best trial with each baseline and the dense network, with
    95 % intervals. Where sensitivity was measured, sensitivity.png is drawn too. Reading is safe beside
    a running search. Where the files cannot be written, the table is
    still shown. One FLOP is one multiply–accumulate.
    """
    from autoprune.study.find_study import find_study

    folder, _ = find_study(study, root)
    limits = budget_values(options)
    if not live:
        with _uncollected():
            _write(folder, storage, limits, show_all, open_page, as_json, prefer)
        return
    from autoprune.cli.watch import follow

    if show_all or open_page or prefer is not None:
        raise UsageError("--live writes nothing and shows the front beyond noise; leave out --all, --open and --prefer")
    follow(folder, storage, limits, once=False, as_json=as_json)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Do without the collection of cycles, which walks thousands of trials again and again and frees little."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _write(
    folder: Path,
    storage: str | None,
    limits: Mapping[str, str],
    show_all: bool,
    open_page: bool,
    as_json: bool,
    prefer: Preference | None,
) -> None:
    """Write the report into the study's folder, and print it."""
    from autoprune.loggers.safe_console import SafeConsole
    from autoprune.report.content.summary import summarise
    from autoprune.report.content.terminal import render
    from autoprune.report.write_report import write_report
    from autoprune.study.view import open_view

    view = open_view(folder, storage)
    budget = asked_budget(limits, view.dense)
    try:
        summary, files = write_report(view, budget, not show_all, elsewhere=bool(storage), prefer=prefer)
    except StudyError as error:
        summary, files = summarise(view, budget, not show_all, prefer), []  # which raises what is no fault of writing
        echo(hidden(f"autoprune: the report's files are not written: {error}", click.get_current_context()), err=True)
    if open_page and files and not webbrowser.open(files[0].resolve().as_uri()):
        echo(f"no browser could be started; open {files[0]} in a browser", err=True)
    if as_json:
        emit({**summary.to_json(), "files": [str(path) for path in files]})
    else:
        render(summary, SafeConsole())
        if files:
            echo("\nwritten: " + ", ".join(str(path) for path in files))
