"""``autoprune studies``: the list of what is stored. Its subcommands are in ``cli.manage_studies``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from autoprune.cli.lazy_group import LazyGroup
from autoprune.cli.output import echo, emit
from autoprune.cli.shared_options import stored_study_options
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.study.manage.list import Listed

SUBCOMMANDS = {
    "cp": "Copy a study under another name.",
    "export": "Pack a study into one portable file.",
    "import": "Unpack a study that was exported.",
    "rm": "Remove what searches made of studies.",
}


@click.group(
    cls=LazyGroup,
    summaries=SUBCOMMANDS,
    place="autoprune.cli.manage_studies:{name}_study",
    invoke_without_command=True,
    subcommand_metavar="[COMMAND [ARGS]...]",
    epilog="""\b
Examples:
  autoprune studies
  autoprune studies --json | jq '.studies[] | select(.searching)'
  autoprune studies export digits-resnet56 digits.tar.gz
  autoprune studies rm digits-resnet56
""",
)
@stored_study_options
@click.pass_context
def studies(ctx: click.Context, root: Path, storage: str | None, as_json: bool) -> None:
    """List the studies under --root, or remove, copy, export or import one.

    Each is shown with its trials, the best network within its last budget, its size on disk, when it was last written
    to, and whether a process is searching it now. --storage is read for studies whose trials are not in their folder.
    """
    if ctx.invoked_subcommand is not None:
        if ctx.get_parameter_source("storage") is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--storage was given before {ctx.invoked_subcommand}; give it after, among that command's own options"
            )
        given = {"root": root, "as_json": as_json}
        ctx.default_map = {name: {**(ctx.default_map or {}), **given} for name in SUBCOMMANDS}
        return
    from autoprune.study.find_study import recipes
    from autoprune.study.manage.list import list_studies

    found = list_studies(root, storage)
    unused = sorted(set(recipes()) - {each.name for each in found})
    if as_json:
        emit({"root": str(root), "studies": [each.to_json() for each in found], "recipes": unused})
        return
    _print(found, root)
    if unused:
        echo(f"recipes not begun: {', '.join(unused)}")


def _print(found: list[Listed], root: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    from autoprune.loggers.safe_console import SafeConsole

    if not found:
        echo(f"no stored study under {root}; begin one with `autoprune search --budget-mflops 50`")
        return
    table = Table("study", "trials", "best within its budget", "MB on disk", "last activity")
    for each in found:
        table.add_row(*(Text(cell) for cell in _cells(each)))
    SafeConsole().print(table)


def _cells(each: Listed) -> tuple[str, ...]:
    size = f"{each.size_bytes / 1e6:.1f}"
    when = "searching now" if each.searching else ago(each.active)
    if each.overview is None:
        return each.name, "?", each.fault.splitlines()[0], size, when
    row = each.to_json()
    return each.name, f"{row['finished']} of {row['trials']}", str(row["best"]), size, when


def ago(moment: datetime.datetime) -> str:
    """Return how long ago a moment was, in words."""
    seconds = (datetime.datetime.now(datetime.UTC) - moment).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
