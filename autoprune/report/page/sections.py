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
from autoprune.core.int8_loss import INT8_GAIN
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, Metric
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial, Untimed
from autoprune.report.content.parameter_importance import ParameterImportance
from autoprune.report.content.quality_words import title
from autoprune.report.content.rows import Row, duration, first_line, short
from autoprune.report.content.summary import Summary
from autoprune.report.content.terminal import worst_of
from autoprune.report.page.data import titles_of

LISTED = 20  # reasons, parameters
PHASES = {
    "ask": "proposing a policy",
    "prune": "cutting a copy of the network",
    "compensate": "refitting what stays to the dense network's outputs",
    "recalibrate": "recalibrating batch norm",
    "rung": "looking whether it can win: before the fine-tune and half-way through the fine-tune",
    "finetune": "fine-tuning",
    "score": "scoring on validation",
    "latency": "timing",
    "store": "storing the weights",
    "solve": "solving for a budget that was picked, without training",
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
        score: the other's, with its unit.
        difference: by how much the best network is better than the other, with its unit.
        interval: the ends of the 95 % interval, or in words that there is none.
        verdict: ``better``, ``worse``, ``not distinguishable`` or ``unknown``.
        paired: whether the two were compared example by example.
        left: where the interval begins, in per cent of the plot's width; of one that is not known, the difference.
        width: of the interval, in the same unit.
        middle: where the difference lies, in the same unit.
    """

    name: str
    trial: str
    score: str
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
    untimed: tuple[Reason, ...]
    untimed_more: int
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
    """Return qualities and costs of the best network, each also against the dense network's; empty without one."""
    row, dense = summary.best, summary.dense
    if row is None:
        return []
    known = [one for one in summary.qualities if one.name in row.measurement.values]
    costs = [
        Tile(
            label=titles_of(summary)[name],
            value=f"{short(row.measurement[name])}{_unit(name)}",
            error=f" ± {row.measurement.error(name):.2g}" if row.measurement.error(name) else "",
            ratio=_ratio(row, name, f"{short(dense[name])}{_unit(name)}" if name in dense.values else "")
            + (_in_float32(row, summary) if name == "latency_ms" else ""),
        )
        for name in TILES
        if name in row.measurement.values
    ]
    return [*(_quality_tile(row.measurement, dense, one) for one in known), *_int8_tile(row), *costs]


def _int8_tile(row: Row) -> list[Tile]:
    """Return by how much the best network is better in int8 than in float32, where that was measured."""
    gain, quality = row.measurement.values.get(INT8_GAIN), row.quality
    if gain is None:
        return []
    error = f" ± {quality.number(row.measurement.error(INT8_GAIN))}"
    return [Tile("In int8", _signed(quality.gap(gain, "+")), error, f"{quality.name} against the same in float32")]


def _quality_tile(measurement: Measurement, dense: Measurement, quality: Metric) -> Tile:
    """Return a quality of the best network; against dense, larger values have a plus, whichever are better."""
    change = measurement[quality.name] - dense[quality.name]
    return Tile(
        label=title(quality),
        value=quality.with_unit(measurement[quality.name]),
        error=_quality_error(measurement, quality),
        ratio=f"{_signed(quality.gap(change, '+'))} against dense, {quality.with_unit(dense[quality.name])}"
        f"{_quality_error(dense, quality)}",
    )


def quality_texts(summary: Summary) -> dict[str, str]:
    """Return what the page's fixed texts call the leading quality."""
    quality = summary.quality
    return {
        "name": quality.name,
        "title": title(quality),
        "worth": f"The best network's {quality.name} less the other's"
        if quality.goal == "max"
        else f"By how much the best network's {quality.name} is below the other's",
        "worst": worst_of(quality),
    }


def worth_rows(summary: Summary) -> list[WorthRow]:
    """Return how the best network compares with each baseline and with the dense network."""
    if not summary.worth:
        return []
    quality = summary.quality
    scores = {row.number: row.measurement[quality.name] for row in summary.rows} | {None: summary.dense[quality.name]}
    edge = 1.05 * max(abs(end) for one in summary.worth for end in _ends(one)) or 0.01
    return [_worth_row(one, scores.get(one.trial), edge, quality) for one in summary.worth]


def _ends(one: Comparison) -> tuple[float, float]:
    """Return the ends of the interval; both are the difference if it is not known."""
    return (one.difference if one.low is None else one.low), (one.difference if one.high is None else one.high)


def _worth_row(one: Comparison, score: float | None, edge: float, quality: Metric) -> WorthRow:
    low, high = (50 + 50 * end / edge for end in _ends(one))
    ends = (_signed(quality.gap(end, "+").split(" ")[0]) for end in _ends(one))
    return WorthRow(
        name="the dense network" if one.trial is None else one.baseline,
        trial="" if one.trial is None else f"trial {one.trial}",
        score=quality.with_unit(score) if score is not None else "–",
        difference=_signed(quality.gap(one.difference, "+")),
        interval="no standard error" if one.stderr is None else " to ".join(ends),
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
    """Return the trials that did not complete: failures by reason, the most frequent first, then the others."""
    failed: dict[str, list[int]] = {}
    stopped, untimed, over = list[Reason](), list[Reason](), list[int]()
    for trial in trials:
        match trial.outcome:
            case Failed(error, message):
                reason = f"{error}: {first_line(message)}" if first_line(message) else error
                failed.setdefault(reason, []).append(trial.number)
            case Stopped(reason, _):
                stopped.append(Reason(str(trial.number), first_line(reason)))
            case OverBudget():
                over.append(trial.number)
            case Untimed(reason):
                untimed.append(Reason(str(trial.number), first_line(reason)))
            case Completed():
                pass
    ranked = sorted(failed.items(), key=lambda pair: -len(pair[1]))
    return Endings(
        failed=tuple(Reason(_numbers(numbers), reason) for reason, numbers in ranked[:LISTED]),
        failed_more=max(0, len(ranked) - LISTED),
        stopped=tuple(stopped[:LISTED]),
        stopped_more=max(0, len(stopped) - LISTED),
        untimed=tuple(untimed[:LISTED]),
        untimed_more=max(0, len(untimed) - LISTED),
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


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _quality_error(measurement: Measurement, quality: Metric) -> str:
    error = measurement.error(quality.name)
    return f" ± {quality.number(error)}" if error else ""


def _unit(name: str) -> str:
    return UNITS.get(name, f" {METRICS[name].unit}")


def _in_float32(row: Row, summary: Summary) -> str:
    """Return how much faster the network in int8 is than the dense one in float32; empty where none is in int8."""
    times = summary.times_float32(row.measurement)
    return f", in int8; {times:.2f}× as dense in float32, {short(summary.dense_float32_ms or 0)} ms" if times else ""


def _ratio(row: Row, name: str, dense: str) -> str:
    ratio = row.ratios.get(name)
    if ratio is None or not dense:
        return ""
    if name == "latency_ms":
        return f"{1 / ratio:.2f}× as fast as dense, {dense}" if ratio else f"too fast to time; dense {dense}"
    return f"{100 * ratio:.0f} % of dense, {dense}"
