"""The parts of the report page that do not depend on what the reader chooses, as text and numbers.

Each function returns what one section of ``templates/page.html.j2`` shows. Text is as it was stored; the template
escapes it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.analysis.comparison import Comparison
from autoprune.core.metrics import METRICS
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial
from autoprune.report.content.parameter_importance import ParameterImportance
from autoprune.report.content.rows import Row, duration, first_line, short
from autoprune.report.content.summary import Summary
from autoprune.report.page.data import SHORT_TITLES

LISTED = 20  # reasons, parameters
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


@dataclass(frozen=True)
class Tile:
    """One figure of the best network: its value, ± its error, and how it compares with the dense network's."""

    label: str
    value: str
    error: str
    ratio: str


@dataclass(frozen=True)
class WorthRow:
    """How the best network compares with one other, in words and as an interval across a plot.

    Attributes:
        name: the other's.
        trial: the other's trial; empty for the dense network.
        accuracy: the other's, in per cent.
        difference: the best network's accuracy less the other's, in points.
        interval: the ends of the 95 % interval, in points.
        verdict: ``better``, ``worse`` or ``not distinguishable``.
        paired: whether the two were compared image by image.
        left: where the interval begins, in per cent of the plot's width.
        width: of the interval, in the same unit.
        middle: where the difference lies, in the same unit.
    """

    name: str
    trial: str
    accuracy: str
    difference: str
    interval: str
    verdict: str
    paired: bool
    left: float
    width: float
    middle: float


@dataclass(frozen=True)
class PhaseRow:
    """The time that one phase took in all trials; ``share`` is in per cent, ``median`` over trials that have it."""

    name: str
    means: str
    total: str
    share: float
    median: str
    trials: int


@dataclass(frozen=True)
class Reason:
    """Why trials did not complete, with their numbers."""

    trials: str
    reason: str


@dataclass(frozen=True)
class Endings:
    """The trials that did not complete; ``…_more`` is how many reasons or trials are left out."""

    failed: tuple[Reason, ...]
    failed_more: int
    stopped: tuple[Reason, ...]
    stopped_more: int
    over: str


@dataclass(frozen=True)
class ImportanceRow:
    """A parameter, the share of the loss that it explains in per cent, and whether that is more than chance."""

    name: str
    share: float
    beyond_chance: bool


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


def tiles(summary: Summary) -> list[Tile]:
    """Return accuracy and costs of the best network, each also as a share of the dense network's; empty without one."""
    row, dense = summary.best, summary.dense
    if row is None:
        return []
    error = _error(100 * dense.error("accuracy"), 2)
    accuracy = Tile(
        label="Accuracy",
        value=f"{100 * row.measurement['accuracy']:.2f} %",
        error=_error(100 * row.measurement.error("accuracy"), 2),
        ratio=f"{_points(-row.accuracy_drop)} against dense, {100 * dense['accuracy']:.2f} %{error}",
    )
    costs = [
        Tile(
            label=SHORT_TITLES[name],
            value=f"{short(row.measurement[name])}{_unit(name)}",
            error=f" ± {row.measurement.error(name):.2g}" if row.measurement.error(name) else "",
            ratio=_ratio(row, name, f"{short(dense[name])}{_unit(name)}" if name in dense.values else ""),
        )
        for name in TILES
        if name in row.measurement.values
    ]
    return [accuracy, *costs]


def worth_rows(summary: Summary) -> list[WorthRow]:
    """Return how the best network compares with each baseline and with the dense network."""
    if not summary.worth:
        return []
    accuracy = {row.number: row.measurement["accuracy"] for row in summary.rows} | {None: summary.dense["accuracy"]}
    edge = 1.05 * max(max(abs(one.low), abs(one.high)) for one in summary.worth) or 0.01
    return [_worth_row(one, accuracy.get(one.trial), edge) for one in summary.worth]


def _worth_row(one: Comparison, accuracy: float | None, edge: float) -> WorthRow:
    low, high = 50 + 50 * one.low / edge, 50 + 50 * one.high / edge
    return WorthRow(
        name="the dense network" if one.trial is None else one.baseline,
        trial="" if one.trial is None else f"trial {one.trial}",
        accuracy=f"{100 * accuracy:.2f} %" if accuracy is not None else "–",
        difference=_points(one.difference),
        interval=f"{100 * one.low:+.2f} to {100 * one.high:+.2f}".replace("-", "−"),
        verdict=one.verdict,
        paired=one.paired,
        left=round(low, 2),
        width=round(high - low, 2),
        middle=round(50 + 50 * one.difference / edge, 2),
    )


def phases(trials: Sequence[Trial]) -> list[PhaseRow]:
    """Return where the time went, the longest phase first."""
    spent: dict[str, list[float]] = {}
    for trial in trials:
        for name, seconds in trial.seconds.items():
            if math.isfinite(seconds):
                spent.setdefault(name, []).append(seconds)
    whole = sum(map(sum, spent.values())) or 1.0
    rows = [
        PhaseRow(
            name=name,
            means=PHASES.get(name, ""),
            total=duration(sum(seconds)),
            share=round(100 * sum(seconds) / whole, 1),
            median=f"{statistics.median(seconds):.2f} s",
            trials=len(seconds),
        )
        for name, seconds in spent.items()
    ]
    return sorted(rows, key=lambda row: -row.share)


def endings(trials: Sequence[Trial]) -> Endings:
    """Return the trials that did not complete: failures by reason, the most frequent first, then stopped ones."""
    failed: dict[str, list[int]] = {}
    stopped, over = list[Reason](), list[int]()
    for trial in trials:
        match trial.outcome:
            case Failed(error, message):
                reason = f"{error}: {first_line(message)}" if first_line(message) else error
                failed.setdefault(reason, []).append(trial.number)
            case Stopped(reason, _):
                stopped.append(Reason(str(trial.number), first_line(reason)))
            case OverBudget():
                over.append(trial.number)
            case Completed():
                pass
    ranked = sorted(failed.items(), key=lambda pair: -len(pair[1]))
    return Endings(
        failed=tuple(Reason(_numbers(numbers), reason) for reason, numbers in ranked[:LISTED]),
        failed_more=max(0, len(ranked) - LISTED),
        stopped=tuple(stopped[:LISTED]),
        stopped_more=max(0, len(stopped) - LISTED),
        over=_numbers(over),
    )


def importance_rows(found: ParameterImportance) -> list[ImportanceRow]:
    """Return the parameters that explain most, the first first."""
    return [
        ImportanceRow(name, round(100 * share, 1), share > found.chance)
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
