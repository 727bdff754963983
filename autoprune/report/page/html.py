"""``report.html``: the study as one page that needs nothing else, to read, to choose on, to print and to send.

What does not change is written here from ``templates/page.html.j2``; the plots, the choice under a budget and the table
of trials are drawn in the browser by ``templates/*.js`` from one JSON document, ``report.page.data``.
Whatever a study's text holds is escaped twice over: by Jinja in HTML, and in the JSON so that it can end no script.
A policy in the page forbids it any network, and any script but the ones written here, which it knows by their hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.core.atomic_write import write_text
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.report.content.method import method
from autoprune.report.content.parameter_importance import importance
from autoprune.report.content.rows import duration
from autoprune.report.content.summary import Summary
from autoprune.report.content.terminal import counts_line
from autoprune.report.page import sections
from autoprune.report.page.data import SHORT_TITLES, page_document
from autoprune.report.page.heat_table import sensitivity_table

if TYPE_CHECKING:
    from autoprune.study.view import StudyView

SCRIPTS = ("choice.js", "front.js", "policy.js", "history.js", "table.js", "page.js")
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_page(view: StudyView, summary: Summary, path: Path, elsewhere: bool = False) -> None:
    """Write the page; the study is only read.

    Args:
        view: the study at one moment.
        summary: its summary.
        path: where; replaced in one step.
        elsewhere: whether the trials are in a storage that every command has to name.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_text(path, page_text(view, summary, elsewhere))


def page_text(view: StudyView, summary: Summary, elsewhere: bool = False) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    plotly, script = get_plotlyjs(), _script()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    document = {**page_document(view, summary), "elsewhere": elsewhere}
    return environment.from_string(_template("page.html.j2")).render(
        **_sections(view, summary),
        policy=content_policy([script, plotly]),
        style=_template("page.css"),
        plotly=plotly,
        script=script,
        document=embedded_json(document),
        document_facts={"completed": summary.counts["completed"], "has_trials": bool(view.trials)},
    )


def embedded_json(document: Any) -> str:
    r"""Return JSON that can stand within a script element whatever its strings hold.

    >>> embedded_json({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def content_policy(scripts: list[str]) -> str:
    """Return a Content-Security-Policy under which nothing is loaded and only these inline scripts run."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _sections(view: StudyView, summary: Summary) -> dict[str, object]:
    """Return what the template shows as it is."""
    return {
        "title": summary.study,
        "written": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        "budget": summary.budget.describe() if summary.budget.limits else "",
        "counts": counts_line(summary).removeprefix("trials: "),
        "running": summary.running,
        "headline": sections.headline(summary),
        "tiles": sections.tiles(summary),
        "worth": sections.worth_rows(summary),
        "notes": [_sentence(note) for note in summary.notes],
        "sensitivity": sensitivity_table(summary.sensitivity),
        "importance": (found := importance(view.trials, summary.budget, summary.quality)),
        "importance_rows": sections.importance_rows(found),
        "hypervolume": f"{summary.hypervolume:.4f}",
        "phases": sections.phases(view.trials),
        "total_time": duration(summary.total_seconds),
        "endings": sections.endings(view.trials),
        "method": method(view, summary),
        "flop_convention": _sentence(FLOP_CONVENTION),
        "objectives": ", ".join(SHORT_TITLES.get(name, name) for name in summary.objectives),
        "quality": sections.quality_texts(summary),
    }


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _script() -> str:
    parts = "\n".join(_template(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _template(name: str) -> str:
    text = files("autoprune.report.page").joinpath("templates", name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")  # a browser does so before it hashes a script
