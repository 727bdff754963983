"""Write the report of a study into its folder: ``report.html``, ``front.csv``, ``front.json``, and plots.

``sensitivity.png`` is written too where the study holds ``sensitivity.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.core.budget import Budget
from autoprune.core.preference import Preference
from autoprune.report.content.summary import Summary, summarise
from autoprune.report.csv_json import write_front_csv, write_front_json
from autoprune.report.page.html import write_page
from autoprune.report.plots.front import write_front_pictures
from autoprune.report.plots.sensitivity import write_sensitivity_png

if TYPE_CHECKING:
    from autoprune.study.view import StudyView

PAGE = "report.html"


def write_report(
    view: StudyView,
    budget: Budget | None = None,
    noise_aware: bool = True,
    elsewhere: bool = False,
    prefer: Preference | None = None,
) -> tuple[Summary, list[Path]]:
    """Summarise a study and write its five files, or six; the study itself is only read.

    Each file is replaced in one step, so this is safe beside a running search and beside another report.

    Args:
        view: the study at one moment.
        budget: limits, absolute or relative to the dense network; ``None``: those of the last run.
        noise_aware: ``False`` shows every non-dominated trial.
        elsewhere: whether the trials are in a storage that every command has to name.
        prefer: what decides which of several networks that are as good within noise is the best;
            ``None`` for the study's own.

    Returns:
        the summary, for :func:`render`, and the files written, the page first.

    Raises:
        StudyError: if the study has no dense network yet, a file of it is damaged, or one cannot be written.
    """
    summary = summarise(view, budget, noise_aware, prefer)
    page = view.folder.path / PAGE
    table, document, *pictures = (view.folder.path / f"front.{suffix}" for suffix in ("csv", "json", "png", "svg"))
    write_page(view, summary, page, elsewhere)
    write_front_csv(summary, table)
    write_front_json(summary, document)
    write_front_pictures(summary, view.trials, pictures)
    files = [page, table, document, *pictures]
    if summary.sensitivity is None:
        return summary, files
    heat_map = view.folder.path / "sensitivity.png"
    write_sensitivity_png(summary.sensitivity, summary.study, heat_map)
    return summary, [*files, heat_map]
