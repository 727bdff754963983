"""The parts of the report page that are the same whatever the reader chooses: plain text and numbers, laid out later.

Each function returns what one section of ``templates/page.html.j2`` shows. Text is as it was stored; the template
escapes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from autoprune.analysis.comparison import Comparison
from autoprune.core.metrics import METRICS
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial
from autoprune.report.content.parameter_importance import ParameterImportance
from autoprune.report.content.rows import Row, duration, first_line, short
from autoprune.report.content.sensitivity_text import ShownCurve, ShownSensitivity
from autoprune.report.content.summary import Summary
from autoprune.report.page.data import SHORT_TITLES

LISTED = 20  # reasons, parameters
STEP = 5  # per cent of sparsity, to which the sensitivity's columns are rounded
PHASES = {
    "ask": "proposing a policy",
    "prune": "cutting a copy of the network",
    "recalibrate": "recalibrating batch norm",
    "rung": "looking whether it can win: after recalibration and half-way through the fine-tune",
    "finetune": "fine-tuning",
    "score": "scoring on validation",
    "latency": "timing",
    "store": "storing the weights",
    "other": "everything else",
}
TILES = ("mflops", "latency_ms", "mparams", "size_mb", "nonzero_mflops", "nonzero_mparams")
UNITS = {"mflops": "", "nonzero_mflops": "", "mparams": " M", "nonzero_mparams": " M"}


def headline(summary: Summary) -> str:
    """Return the page's first sentence: the best network within the budget, or why there is none."""
    budget = f"within {summary.budget.describe()}" if summary.budget.limits else "of all trials, as there is no budget"
    if summary.best is not None:
        kind = f"the {summary.best.origin} baseline, " if summary.best.is_baseline else ""
        return f"The best network {budget} is {kind}trial {summary.best.number}."
    if summary.counts["completed"]:
        return f"No completed trial is {budget}."
    if sum(summary.counts.values()):
        return "No trial has completed: there is nothing to choose from yet."
    return "The study has no finished trial yet."


def tiles(summary: Summary) -> list[dict[str, str]]:
    """Return accuracy and costs of the best network, each also as a share of the dense network's; empty without one."""
    row, dense = summary.best, summary.dense
    if row is None:
        return []
    found = [
        {
            "label": "Accuracy",
            "value": f"{100 * row.measurement['accuracy']:.2f} %",
            "error": _error(100 * row.measurement.error("accuracy"), 2),
            "ratio": f"{_points(-row.accuracy_drop)} against dense, {100 * dense['accuracy']:.2f} %"
            f"{_error(100 * dense.error('accuracy'), 2)}",
        }
    ]
    for name in TILES:
        if name in row.measurement.values:
            found.append(
                {
                    "label": SHORT_TITLES[name],
                    "value": f"{short(row.measurement[name])}{_unit(name)}",
                    "error": f" ± {row.measurement.error(name):.2g}" if row.measurement.error(name) else "",
                    "ratio": _ratio(row, name, f"{short(dense[name])}{_unit(name)}" if name in dense.values else ""),
                }
            )
    return found


def worth_rows(summary: Summary) -> list[dict[str, Any]]:
    """Return how the best network compares: words, and where the interval lies between 0 and 100 across a picture."""
    if not summary.worth:
        return []
    accuracy = {row.number: row.measurement["accuracy"] for row in summary.rows} | {None: summary.dense["accuracy"]}
    edge = 1.05 * max(max(abs(one.low), abs(one.high)) for one in summary.worth) or 0.01
    return [_worth_row(one, accuracy.get(one.trial), edge) for one in summary.worth]


def _worth_row(one: Comparison, accuracy: float | None, edge: float) -> dict[str, Any]:
    place = {name: 50 + 50 * value / edge for name, value in (("low", one.low), ("high", one.high))}
    return {
        "name": "the dense network" if one.trial is None else one.baseline,
        "trial": "" if one.trial is None else f"trial {one.trial}",
        "accuracy": f"{100 * accuracy:.2f} %" if accuracy is not None else "–",
        "difference": _points(one.difference),
        "interval": f"{100 * one.low:+.2f} to {100 * one.high:+.2f}".replace("-", "−"),
        "verdict": one.verdict,
        "paired": one.paired,
        "left": round(place["low"], 2),
        "width": round(place["high"] - place["low"], 2),
        "middle": round(50 + 50 * one.difference / edge, 2),
    }


def phases(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return where the time went: phase, seconds, share, and the median over the trials that have it, longest first."""
    spent: dict[str, list[float]] = {}
    for trial in trials:
        for name, seconds in trial.seconds.items():
            if math.isfinite(seconds):
                spent.setdefault(name, []).append(seconds)
    whole = sum(map(sum, spent.values())) or 1.0
    rows = [
        {
            "name": name,
            "means": PHASES.get(name, ""),
            "total": duration(sum(seconds)),
            "share": round(100 * sum(seconds) / whole, 1),
            "median": f"{statistics.median(seconds):.2f} s",
            "trials": len(seconds),
        }
        for name, seconds in spent.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["share"])))


def endings(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the trials that did not complete: failures by reason, the most frequent first, then stopped ones."""
    failed: dict[str, list[int]] = {}
    stopped, over = list[dict[str, Any]](), list[int]()
    for trial in trials:
        match trial.outcome:
            case Failed(error, message):
                reason = f"{error}: {first_line(message)}" if first_line(message) else error
                failed.setdefault(reason, []).append(trial.number)
            case Stopped(reason, _):
                stopped.append({"trial": trial.number, "reason": first_line(reason)})
            case OverBudget():
                over.append(trial.number)
            case Completed():
                pass
    ranked = sorted(failed.items(), key=lambda pair: -len(pair[1]))
    return {
        "failed": [{"reason": reason, "trials": _numbers(numbers)} for reason, numbers in ranked[:LISTED]],
        "failed_more": max(0, len(ranked) - LISTED),
        "stopped": stopped[:LISTED],
        "stopped_more": max(0, len(stopped) - LISTED),
        "over": _numbers(over),
    }


def sensitivity_table(found: ShownSensitivity | None) -> dict[str, Any] | None:
    """Return groups × sparsity: the rise of the loss, and its shade from 0 (none) to 5 on a logarithmic scale.

    Sparsities are rounded to 5 %; where two of a group fall together the larger rise is shown. ``None`` if nothing was
    measured.
    """
    if found is None or not found.curves:
        return None
    highest = max((rise for curve in found.curves for rise in curve.rises.values()), default=0.0)
    levels = sorted({level for curve in found.groups for level in _by_level(curve)})
    return {
        "dense_loss": f"{found.dense_loss:.4g}",
        "levels": levels,
        "groups": [
            {"name": curve.name, "cells": [_cell(_by_level(curve).get(level), highest) for level in levels]}
            for curve in found.groups
        ],
        "blocks": [{"name": curve.name, "cell": _cell(max(curve.rises.values()), highest)} for curve in found.blocks],
    }


def _by_level(curve: ShownCurve) -> dict[int, float]:
    found: dict[int, float] = {}
    for kept, rise in curve.rises.items():
        level = STEP * round(100 * (1 - kept / curve.full) / STEP)
        found[level] = max(rise, found.get(level, -math.inf))
    return found


def _cell(rise: float | None, highest: float) -> dict[str, Any]:
    if rise is None:
        return {"text": "", "shade": 0}
    share = rise / highest if highest > 0 else 0.0
    shade = 0 if share <= 0.001 else min(5, 1 + int((3 + math.log10(share)) / 3 * 5))
    return {"text": f"{rise:+.2g}".replace("-", "−"), "shade": shade}


def importance_rows(found: ParameterImportance) -> list[dict[str, Any]]:
    """Return the parameters that tell most: name, share in per cent, and whether that is more than chance gives."""
    return [
        {"name": name, "share": round(100 * share, 1), "beyond_chance": share > found.chance}
        for name, share in list(found.shares.items())[:LISTED]
    ]


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:LISTED])) + (f" and {len(numbers) - LISTED} more" if numbers[LISTED:] else "")


def _points(fraction: float) -> str:
    return f"{100 * fraction:+.2f} points".replace("-", "−")


def _error(value: float, digits: int) -> str:
    return f" ± {value:.{digits}f}" if value else ""


def _unit(name: str) -> str:
    return UNITS.get(name, f" {METRICS[name].unit}")


def _ratio(row: Row, name: str, dense: str) -> str:
    ratio = row.ratios.get(name)
    if ratio is None or not dense:
        return ""
    if name == "latency_ms":
        return f"{1 / ratio:.2f}× as fast as dense, {dense}" if ratio else f"too fast to time; dense {dense}"
    return f"{100 * ratio:.0f} % of dense, {dense}"
