"""The front as files for other programs: CSV for a spreadsheet, JSON for a script."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from autoprune.core.atomic_write import write_text
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.report.content.rows import Row, cost_ratios, generalisation_gap, share_of_budget
from autoprune.report.content.summary import Summary

MEASURED = (
    *("accuracy", "accuracy_stderr", "loss", "mflops", "mparams", "latency_ms", "latency_ms_stderr", "size_mb"),
    *("nonzero_mflops", "nonzero_mparams", "train_accuracy", "train_accuracy_stderr"),
)
RATIOS = tuple(f"{name}_ratio" for name, known in METRICS.items() if known.is_cost)
COLUMNS = (
    "trial",
    "origin",
    "on_front",
    "best",
    "knee",
    *MEASURED,
    "accuracy_drop",
    "generalisation_gap",
    *RATIOS,
    "budget_used",
)


def write_front_csv(summary: Summary, path: Path) -> None:
    """Write one line per row of the report and a last one for the dense network.

    Accuracy, its drop and ratios are fractions; the other units are in the column's name. Flags are 1 or 0.
    An empty cell was not measured or has no meaning, as the dense network's trial number.

    Raises:
        StudyError: if the file cannot be written.
    """
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row_cells(row) for row in summary.rows)
    writer.writerow(_dense_cells(summary))
    write_text(path, buffer.getvalue())


def write_front_json(summary: Summary, path: Path) -> None:
    """Write everything the report contains, as :meth:`Summary.to_json` gives it.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_text(path, json_text(summary))


def json_text(summary: Summary) -> str:
    """Return the report as one JSON document, ending in a newline."""
    return json.dumps(summary.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _row_cells(row: Row) -> dict[str, object]:
    return {
        "trial": row.number,
        "origin": row.origin,
        "on_front": int(row.on_front),
        "best": int(row.is_best),
        "knee": int(row.is_knee),
        **_measured_cells(row.measurement),
        "accuracy_drop": row.accuracy_drop,
        "generalisation_gap": generalisation_gap(row.measurement),
        **{f"{name}_ratio": ratio for name, ratio in row.ratios.items()},
        "budget_used": row.budget_used,
    }


def _dense_cells(summary: Summary) -> dict[str, object]:
    return {
        "origin": "dense",
        "on_front": 0,
        "best": 0,
        "knee": 0,
        **_measured_cells(summary.dense),
        "accuracy_drop": 0.0,
        "generalisation_gap": generalisation_gap(summary.dense),
        **{f"{name}_ratio": ratio for name, ratio in cost_ratios(summary.dense, summary.dense).items()},
        "budget_used": share_of_budget(summary.dense, summary.budget),
    }


def _measured_cells(measurement: Measurement) -> dict[str, float]:
    found = {**measurement.values, **{f"{name}_stderr": error for name, error in measurement.stderr.items()}}
    return {name: found[name] for name in MEASURED if name in found}
