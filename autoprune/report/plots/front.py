"""The front as a picture: the leading quality against MFLOPs, and against every other cost the study trades.

Matplotlib's object interface with the Agg canvas only: no window system, no global figure, and nothing of
the user's own style. The y-axis is fitted to what is worth comparing; a network far worse is a small
triangle on the edge and does not squeeze the rest.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.analysis import pareto
from autoprune.core.atomic_write import write_bytes
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, Metric
from autoprune.core.trial import Trial
from autoprune.report.content.axes import axis_title, outside_of, quality_range
from autoprune.report.content.quality_words import best_of_all, with_unit_of
from autoprune.report.content.rows import Row, short
from autoprune.report.content.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008: told apart with every kind of colour vision.
FRONT, BEST, DENSE, OTHERS = "#0072B2", "#D55E00", "#000000", "#B0B0B0"
BASELINES = (("s", "#009E73"), ("^", "#CC79A7"), ("D", "#E69F00"), ("P", "#56B4E9"))
STYLE: Any = {
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#707070",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "autoprune",
}
OTHER_LABEL, OUTSIDE_LABEL = "other trials", "the picture"
MANY = 1000  # points beyond which the cloud is an image within the SVG
LEAST_SPAN = 0.03  # of the largest cost shown


def write_front_pictures(summary: Summary, trials: Sequence[Trial], paths: Sequence[Path], dpi: int = 150) -> None:
    """Draw the report once, and write it in the format of each file's suffix: ``.png``, ``.svg``.

    Args:
        summary: what to draw.
        trials: the study's trials; every completed one is a grey point.
        paths: where; each is replaced in one step.
        dpi: pixels per inch; a picture of two panels is 10 × 5 inches.

    Raises:
        StudyError: if a file cannot be written.
    """
    write_pictures(lambda: draw_front(summary, trials), paths, dpi)


def write_pictures(draw: Callable[[], Figure], paths: Sequence[Path], dpi: int) -> None:
    """Write a figure that is drawn in the house's style, and leave matplotlib as it was.

    Raises:
        StudyError: if a file cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = draw()
        for path in paths:
            buffer, kind = io.BytesIO(), path.suffix.removeprefix(".")
            # without a date, so that the same study gives the same file
            figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
            write_bytes(path, buffer.getvalue())


def draw_front(summary: Summary, trials: Sequence[Trial]) -> Figure:
    """Return the figure: one panel per cost, latency first, all with the same axis of the quality."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    costs = costs_shown(summary)
    figure = Figure(figsize=(3 + 3.5 * max(len(costs), 1.2), 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0])
    for cost, axes in zip(costs, panels, strict=True):
        _draw_panel(axes, summary, trials, cost)
    quality = summary.quality
    panels[0].set_ylabel(_literal(with_unit_of(quality, f"validation {quality.name}", "({})")))
    figure.suptitle(_literal(_title(summary)), x=0.01, ha="left", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: _legend_rank(labels[index]))
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=4,
        fontsize=9,
    )
    return figure


def _legend_rank(label: str) -> int:
    """Return where a legend entry stands: what the study found, what to compare it with, the rest."""
    ranked = ("front", "best", "most accurate", "baseline", "dense", OTHER_LABEL, OUTSIDE_LABEL)
    return next((rank for rank, part in enumerate(ranked) if part in label), len(ranked))


def costs_shown(summary: Summary) -> list[str]:
    """Return the costs that have a panel: latency if it is traded, MFLOPs, then the study's other cost objectives."""
    found = [name for name in dict.fromkeys(["mflops", *summary.objectives]) if METRICS[name].is_cost]
    return sorted(found, key=lambda name: name != "latency_ms")


def _draw_panel(axes: Axes, summary: Summary, trials: Sequence[Trial], cost: str) -> None:
    low, high = quality_range(summary)
    scale = summary.quality.scale
    left, right = _cost_range(summary, trials, cost)
    axes.set_ylim(scale * low, scale * high)
    axes.set_xlim(left, right)
    axes.set_xlabel(axis_title(cost, summary))
    _draw_budget(axes, summary, cost)
    _draw_dense(axes, summary, cost)
    _draw_trials(axes, summary, trials, cost)
    _draw_front(axes, summary, cost)
    _draw_baselines(axes, summary, cost)
    _draw_best(axes, summary, cost)
    if not summary.counts["completed"]:
        axes.text(0.97, 0.06, "no completed trial yet", transform=axes.transAxes, ha="right", color="#505050")


def _draw_budget(axes: Axes, summary: Summary, cost: str) -> None:
    limit = summary.budget.limits.get(cost)
    if limit is None:
        return
    right = axes.get_xlim()[1]
    axes.axvline(limit.value, color="#707070", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    axes.axvspan(limit.value, max(right, limit.value), color="#707070", alpha=0.08, linewidth=0, zorder=0)
    axes.annotate(
        f"budget {limit}",
        (limit.value, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color="#505050",
        fontsize=9,
    )


def _draw_dense(axes: Axes, summary: Summary, cost: str) -> None:
    quality = summary.quality
    value, error = _plotted(summary.dense, quality), quality.scale * summary.dense.error(quality.name)
    axes.axhspan(value - error, value + error, color=DENSE, alpha=0.07, linewidth=0, zorder=0)
    costs = [f"{short(summary.dense[name])} {METRICS[name].unit}" for name in costs_shown(summary)]
    label = f"dense ({', '.join(costs)})"
    axes.axhline(value, color=DENSE, linewidth=1.2, linestyle=":", label=label, zorder=1)
    if cost in summary.dense.values:
        axes.plot([summary.dense[cost]], [value], "o", color=DENSE, markersize=7, zorder=5)


def _draw_trials(axes: Axes, summary: Summary, trials: Sequence[Trial], cost: str) -> None:
    shown = {row.number for row in summary.rows}
    found = [m for trial, m in pareto.measured(trials) if trial.number not in shown]
    is_outside = outside_of(summary)
    inside = [(m[cost], _plotted(m, summary.quality)) for m in found if not is_outside(m)]
    outside = [m[cost] for m in found if is_outside(m)]
    if inside:
        x, y = zip(*inside, strict=True)
        as_pixels = len(x) > MANY
        axes.scatter(x, y, s=18, color=OTHERS, linewidth=0, label=OTHER_LABEL, zorder=2, rasterized=as_pixels)
    where = "below" if summary.quality.goal == "max" else "above"
    label = f"{len(outside)} {where} {OUTSIDE_LABEL}" if outside else ""
    _draw_outside(axes, outside, OTHERS, summary.quality, label)


def _plotted(measurement: Measurement, quality: Metric) -> float:
    """Return a quality as it is plotted, a fraction in per cent."""
    return quality.scale * measurement[quality.name]


def _draw_outside(axes: Axes, x: Iterable[float], color: str, quality: Metric, label: str = "") -> None:
    """Mark networks so bad that they lie outside the picture by triangles on its edge."""
    points = list(x)
    if points:
        place = axes.get_xaxis_transform()
        marker, height = ("v", 0.015) if quality.goal == "max" else ("^", 0.985)
        axes.scatter(
            points,
            [height] * len(points),
            s=16,
            marker=marker,
            color=color,
            linewidth=0,
            transform=place,
            label=label or None,
            zorder=3,
        )


def _draw_front(axes: Axes, summary: Summary, cost: str) -> None:
    """Draw the front's networks, and the staircase of the best quality that a cost buys."""
    stairs: list[Measurement] = []
    quality, name, is_outside = summary.quality, summary.quality.name, outside_of(summary)
    shown = [row.measurement for row in summary.front if not is_outside(row.measurement)]
    for found in sorted(shown, key=lambda found: (found[cost], quality.minimised(found[name]))):
        if not stairs or quality.is_better(found[name], stairs[-1][name]):
            stairs.append(found)
    x = [found[cost] for found in stairs]
    y = [_plotted(found, quality) for found in stairs]
    axes.step(x, y, where="post", color=FRONT, linewidth=1.2, alpha=0.6, zorder=2)
    searched = [row for row in summary.front if not row.is_baseline]
    _draw_rows(axes, summary, searched, cost, marker="o", color=FRONT, label="front", size=6)


def _draw_baselines(axes: Axes, summary: Summary, cost: str) -> None:
    origins = list(dict.fromkeys(row.origin for row in summary.rows if row.is_baseline))
    for number, origin in enumerate(origins):
        marker, color = BASELINES[number % len(BASELINES)]
        rows = [row for row in summary.rows if row.is_baseline and row.origin == origin]
        _draw_rows(axes, summary, rows, cost, marker=marker, color=color, label=f"{origin} baseline", size=7)


def _draw_rows(
    axes: Axes, summary: Summary, rows: Sequence[Row], cost: str, marker: str, color: str, label: str, size: float
) -> None:
    """Draw networks with their standard errors, if they have any."""
    quality, is_outside = summary.quality, outside_of(summary)
    found = [row.measurement for row in rows if not is_outside(row.measurement)]
    if rows:
        axes.errorbar(
            [m[cost] for m in found],
            [_plotted(m, quality) for m in found],
            xerr=[m.error(cost) for m in found] if any(m.error(cost) for m in found) else None,
            yerr=[quality.scale * m.error(quality.name) for m in found],
            fmt=marker,
            color=color,
            markersize=size,
            markeredgecolor="white",
            markeredgewidth=0.7,
            elinewidth=1.0,
            ecolor=(color, 0.45),
            label=_literal(label),
            zorder=4,
        )
    outside = [row.measurement[cost] for row in rows if is_outside(row.measurement)]
    _draw_outside(axes, outside, color, quality)


def _draw_best(axes: Axes, summary: Summary, cost: str) -> None:
    best = summary.best
    if best is None:
        return
    kind = "best within budget" if summary.budget.limits else best_of_all(summary.quality)
    x, y = best.measurement[cost], _plotted(best.measurement, summary.quality)
    y_error = summary.quality.scale * best.measurement.error(summary.quality.name)
    axes.errorbar([x], [y], xerr=best.measurement.error(cost) or None, yerr=y_error, ecolor=(BEST, 0.5), zorder=5)
    axes.scatter(
        [x],
        [y],
        marker="*",
        s=230,
        color=BEST,
        edgecolor="white",
        linewidth=0.9,
        label=_literal(f"{kind}: trial {best.number}"),
        zorder=6,
    )


def _cost_range(summary: Summary, trials: Sequence[Trial], cost: str) -> tuple[float, float]:
    """Return the ends of the x-axis: all completed trials and the limit; the dense network if it is near."""
    values = [m[cost] for _, m in pareto.measured(trials)]
    dense = summary.dense.values.get(cost, 0.0)
    if not values:
        return 0.0, 1.15 * dense or 1.0
    if cost in summary.budget.limits:
        values.append(summary.budget.limits[cost].value)
    left, right = min(values), max(values)
    span = max(right - left, LEAST_SPAN * right)
    if dense <= right + 0.5 * span:
        right = max(right, dense)
    middle, span = (left + right) / 2, max(right - left, LEAST_SPAN * right)
    return middle - 0.58 * span, middle + 0.58 * span


def _title(summary: Summary) -> str:
    limits = f"budget {summary.budget.describe()}" if summary.budget.limits else "no budget"
    count = summary.counts["completed"]
    return f"{summary.study} · {limits} · {count} completed trial{'' if count == 1 else 's'}"


def _literal(text: str) -> str:
    """Return text that matplotlib takes as it is, without formulas."""
    return text.replace("$", r"\$")
