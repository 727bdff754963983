"""``autoprune dashboard``: optuna-dashboard on a copy of a study."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from autoprune.cli.headings import Heading, option
from autoprune.cli.output import echo
from autoprune.cli.shared_options import root_option, storage_option, study_argument


@click.command(
    epilog="""\b
Examples:
  autoprune dashboard
  autoprune dashboard studies/cifar10-resnet20 --port 9000 --open
"""
)
@study_argument
@option(
    "--port",
    heading=Heading.OUTPUT,
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    metavar="N",
    help="Port to listen on; 0 for any free one.",
)
@option("--open", "opens", heading=Heading.OUTPUT, is_flag=True, help="Open it in the browser.")
@root_option
@storage_option
def dashboard(study: str | None, port: int, opens: bool, root: Path, storage: str | None) -> None:
    """Look at a copy of STUDY in optuna-dashboard, on this machine alone, until Ctrl-C.

    It needs the extra: pip install 'autoprune[dashboard]'. The copy is one moment of the study, which may be searched
    meanwhile, and is removed at the end. The dashboard knows nothing about budgets or noise: what it calls best may be
    over the budget. Trust `autoprune report`.
    """
    from autoprune.report.optuna_dashboard import CAVEAT, check_installed, copied, served
    from autoprune.study.find_study import find_study

    check_installed()
    from autoprune.study.view import open_view

    folder, _ = find_study(study, root)
    view = open_view(folder, storage)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill removes the copy as well
    try:
        with copied(view, storage) as url, served(url, port) as (address, serve):
            echo(f"{CAVEAT}\n{view.spec.name}: {address} (Ctrl-C to stop)")
            if opens:
                click.launch(address)
            serve()
    except KeyboardInterrupt:
        echo("dashboard stopped; the copy is removed", err=True)
