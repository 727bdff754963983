"""How much each group and each block alone matters, as a heat map: a row each, in the order of the network.

Each cell stands for one count that was measured, and reaches half-way to its neighbours; what was not measured is
left white. Blocks are kept or dropped, so they have a panel of their own, with one cell in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.report.content.sensitivity_text import ShownCurve, ShownSensitivity
from autoprune.report.plots.front import write_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = "viridis_r"  # told apart with every kind of colour vision; the darker, the worse
DECADES = 1e-3  # a rise below this share of the largest has the lightest colour
ROW, TALLEST = 0.21, 24.0  # inches
LONE = 0.25  # share of the channels that the cell of a group measured once stands for


def write_sensitivity_png(found: ShownSensitivity, study: str, path: Path, dpi: int = 150) -> None:
    """Draw every curve as a PNG.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_pictures(lambda: draw_sensitivity(found, study), [path], dpi)


def draw_sensitivity(found: ShownSensitivity, study: str) -> Figure:
    """Return the figure: a panel of groups by sparsity, and one of blocks if there are any, in one colour scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    shown = [curves for curves in (found.groups, found.blocks) if curves]
    rows = max(map(len, shown), default=1)
    size = 7.0 + (2.2 if len(shown) > 1 else 0.0), max(3.0, min(1.6 + ROW * rows, TALLEST))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1 if curves[0].is_block else 4 for curves in shown]
    panels = list(figure.subplots(1, max(len(shown), 1), squeeze=False, width_ratios=ratios or [1])[0])
    colours = ScalarMappable(_scale(found.curves), COLOURS)
    for curves, axes in zip(shown, panels, strict=False):
        _draw_rows(axes, curves, colours, font=min(8.0, 72 * 0.8 * (size[1] - 1.6) / len(curves)))
    bar = figure.colorbar(colours, ax=panels, extend="min", pad=0.02)
    bar.set_label(f"{found.words} (loss of the dense: {found.dense_loss:.3g})")
    figure.suptitle(f"{study} · each cut alone".replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    return figure


def cells(curve: ShownCurve) -> list[tuple[float, float, float]]:
    """Return left end, right end and rise of each cell, by sparsity: the share of channels cut, in [0, 1].

    >>> cells(ShownCurve("conv1", 16, {4: 0.8, 8: 0.2}))
    [(0.375, 0.625, 0.2), (0.625, 0.875, 0.8)]
    """
    if curve.is_block:
        return [(0.0, 1.0, rise) for rise in curve.rises.values()]
    points = sorted((1 - kept / curve.full, rise) for kept, rise in curve.rises.items())
    places = [place for place, _ in points]
    inner = [(left + right) / 2 for left, right in pairwise(places)]
    first = 2 * places[0] - inner[0] if inner else places[0] - LONE / 2
    last = 2 * places[-1] - inner[-1] if inner else places[-1] + LONE / 2
    ends = [max(0.0, first), *inner, min(1.0, last)]
    return [(left, right, rise) for (left, right), (_, rise) in zip(pairwise(ends), points, strict=True)]


def _scale(curves: Sequence[ShownCurve]) -> Any:
    """Return the colours' scale, logarithmic: from a thousandth of the largest rise, or the smallest, to the largest.

    A loss that falls has the lightest colour. If none rises, the scale is of no matter.
    """
    from matplotlib.colors import LogNorm

    rises = [rise for curve in curves for rise in curve.rises.values() if rise > 0]
    high = max(rises, default=1.0)
    low = max(min(rises, default=0.0), DECADES * high)
    return LogNorm(low if low < high else high / 10, high, clip=True)


def _draw_rows(axes: Axes, curves: Sequence[ShownCurve], colours: Any, font: float) -> None:
    """Draw curves from top to bottom, names at the left."""
    for row, curve in enumerate(curves):
        found = cells(curve)
        axes.barh(
            [row] * len(found),
            [100 * (right - left) for left, right, _ in found],
            height=0.92,
            left=[100 * left for left, _, _ in found],
            color=[colours.to_rgba(max(rise, colours.norm.vmin)) for _, _, rise in found],
        )
    axes.set_ylim(len(curves) - 0.5, -0.5)
    axes.set_yticks(range(len(curves)), [curve.name.replace("$", r"\$") for curve in curves], fontsize=font)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 100)
    if curves[0].is_block:
        axes.set_xticks([])
        axes.set_xlabel("block dropped")
    else:
        axes.set_xlabel("channels cut (%)")
