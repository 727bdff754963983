"""``autoprune studies``: what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from autoprune.cli.main import emit, json_option
from autoprune.cli.options import root_option
from autoprune.errors import AutopruneError


@click.command()
@root_option
@json_option
def studies(root: Path, as_json: bool) -> None:
    """List the studies under --root: trials, the best network within the last budget, size on disk."""
    from autoprune.folder import StudyFolder
    from autoprune.recipes import recipes

    folders = sorted(path.parent for path in root.glob("*/resolved.toml"))
    rows = [_describe(StudyFolder(path)) for path in folders]
    unused = sorted(set(recipes()) - {row["name"] for row in rows})
    if as_json:
        emit({"root": str(root), "studies": rows, "recipes": unused})
        return
    _print(rows, root)
    if unused:
        click.echo(f"recipes not begun: {', '.join(unused)}")


def _describe(folder: Any) -> dict[str, Any]:
    """Return one row; a study that cannot be read says why instead of hiding the others."""
    from autoprune.metrics import METRICS
    from autoprune.pareto import best_within
    from autoprune.study.view import open_view
    from autoprune.trial import completed_measurement

    size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
    row: dict[str, Any] = {"name": folder.path.name, "folder": str(folder.path), "size_mb": round(size / 1e6, 3)}
    try:
        view = open_view(folder.path)
    except AutopruneError as error:
        return {**row, "error": str(error)}
    best = best_within(view.trials, view.budget)
    measured = completed_measurement(best) if best else None
    return {
        **row,
        "finished": len(view.trials),
        "trials": view.spec.trials,
        "running": view.running,
        "budget": view.budget.to_json(),
        "best_trial": best.number if best else None,
        "best_accuracy": measured["accuracy"] if measured else None,
        "best": f"{METRICS['accuracy'].show(measured['accuracy'])} at {measured['mflops']:.2f} MFLOPs"
        if measured
        else "",
    }


def _print(rows: list[dict[str, Any]], root: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        click.echo(f"no stored study under {root}; begin one with `autoprune search --budget-mflops 50`")
        return
    table = Table("study", "trials", "best within its budget", "MB on disk")
    for row in rows:
        if "error" in row:
            table.add_row(escape(row["name"]), "?", escape(row["error"].splitlines()[0]), f"{row['size_mb']:.1f}")
        else:
            table.add_row(
                escape(row["name"]), f"{row['finished']} of {row['trials']}", row["best"], f"{row['size_mb']:.1f}"
            )
    Console().print(table)
