"""The front as files for other programs: CSV for a spreadsheet, JSON for a script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from autoprune.core.atomic_write import write_text
from autoprune.core.int8_loss import INT8_GAIN
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, TRAIN, Metric
from autoprune.report.content.rows import Row, cost_ratios, generalisation_gap, share_of_budget
from autoprune.report.content.summary import Summary

COSTS = ("mflops", "mparams", "latency_ms", "latency_ms_stderr", "size_mb", "nonzero_mflops", "nonzero_mparams")
RATIOS = tuple(f"{name}_ratio" for name, known in METRICS.items() if known.is_cost)


def measured_columns(qualities: Sequence[Metric]) -> tuple[str, ...]:
    """Return the columns of what was measured: qualities, the loss, costs, and qualities over training examples."""
    scored = [name for quality in qualities for name in (quality.name, f"{quality.name}_stderr")]
    seen = [f"{TRAIN}{name}" for name in scored]
    own_int8 = (INT8_GAIN, f"{INT8_GAIN}_stderr")
    return (*scored, *own_int8, *(() if "loss" in scored else ("loss",)), *COSTS, *seen)


def columns(qualities: Sequence[Metric]) -> tuple[str, ...]:
    """Return the columns of the table."""
    return (
        *("trial", "origin", "on_front", "best", "knee"),
        *measured_columns(qualities),
        *(f"{qualities[0].name}_drop", "generalisation_gap"),
        *RATIOS,
        "budget_used",
    )


def write_front_csv(summary: Summary, path: Path) -> None:
    """Write one line per row of the report and a last one for the dense network.

    Accuracy, its drop and ratios are fractions; another quality is in its own unit, and its drop says by how much it is
    worse than the dense network's. The other units are in the column's name. Flags are 1 or 0.
    An empty cell was not measured or has no meaning, as the dense network's trial number.

    Raises:
        StudyError: if the file cannot be written.
    """
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns(summary.qualities), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row_cells(row, summary.qualities) for row in summary.rows)
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


def _row_cells(row: Row, qualities: Sequence[Metric]) -> dict[str, object]:
    return {
        "trial": row.number,
        "origin": row.origin,
        "on_front": int(row.on_front),
        "best": int(row.is_best),
        "knee": int(row.is_knee),
        **_measured_cells(row.measurement, qualities),
        f"{row.quality.name}_drop": row.quality_drop,
        "generalisation_gap": generalisation_gap(row.measurement, row.quality),
        **{f"{name}_ratio": ratio for name, ratio in row.ratios.items()},
        "budget_used": row.budget_used,
    }


def _dense_cells(summary: Summary) -> dict[str, object]:
    return {
        "origin": "dense",
        "on_front": 0,
        "best": 0,
        "knee": 0,
        **_measured_cells(summary.dense, summary.qualities),
        f"{summary.quality.name}_drop": 0.0,
        "generalisation_gap": generalisation_gap(summary.dense, summary.quality),
        **{f"{name}_ratio": ratio for name, ratio in cost_ratios(summary.dense, summary.dense).items()},
        "budget_used": share_of_budget(summary.dense, summary.budget),
    }


def _measured_cells(measurement: Measurement, qualities: Sequence[Metric]) -> dict[str, float]:
    found = {**measurement.values, **{f"{name}_stderr": error for name, error in measurement.stderr.items()}}
    return {name: found[name] for name in measured_columns(qualities) if name in found}
