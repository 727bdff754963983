"""Sensitivity as the report page shows it: a table of the loss' rise by group and sparsity, shaded by its size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoprune.report.content.sensitivity_text import ShownCurve, ShownSensitivity

STEP = 5  # per cent of sparsity, to which the columns are rounded


@dataclass(frozen=True)
class HeatCell:
    """The rise of the loss as text, and its shade from 0 (none) to 5."""

    text: str = ""
    shade: int = 0


@dataclass(frozen=True)
class HeatRow:
    """The cells of one group or block."""

    name: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HeatTable:
    """Sensitivity as a table: groups by sparsity in per cent, and blocks with one cell each."""

    dense_loss: str
    words: str
    levels: tuple[int, ...]
    groups: tuple[HeatRow, ...]
    blocks: tuple[HeatRow, ...]


def sensitivity_table(found: ShownSensitivity | None) -> HeatTable | None:
    """Return the rise of the loss by group and sparsity, shaded on a logarithmic scale.

    Sparsities are rounded to 5 %; where two of a group fall together the larger rise is shown. ``None`` if nothing was
    measured.
    """
    if found is None or not found.curves:
        return None
    highest = max((rise for curve in found.curves for rise in curve.rises.values()), default=0.0)
    levels = tuple(sorted({level for curve in found.groups for level in _by_level(curve)}))
    return HeatTable(
        dense_loss=f"{found.dense_loss:.4g}",
        words=found.words,
        levels=levels,
        groups=tuple(
            HeatRow(curve.name, tuple(_cell(_by_level(curve).get(level), highest) for level in levels))
            for curve in found.groups
        ),
        blocks=tuple(HeatRow(curve.name, (_cell(max(curve.rises.values()), highest),)) for curve in found.blocks),
    )


def _by_level(curve: ShownCurve) -> dict[int, float]:
    found: dict[int, float] = {}
    for kept, rise in curve.rises.items():
        level = STEP * round(100 * (1 - kept / curve.full) / STEP)
        found[level] = max(rise, found.get(level, -math.inf))
    return found


def _cell(rise: float | None, highest: float) -> HeatCell:
    if rise is None:
        return HeatCell()
    share = rise / highest if highest > 0 else 0.0
    shade = 0 if share <= 0.001 else min(5, 1 + int((3 + math.log10(share)) / 3 * 5))
    return HeatCell(f"{rise:+.2g}".replace("-", "−"), shade)
