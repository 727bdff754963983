"""How much each group and each block alone matters, as ``sensitivity.json`` holds it, in a few lines and as JSON.

``report.plots.sensitivity`` draws all of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.core import sensitivity
from autoprune.core.json_values import JsonObject
from autoprune.errors import StudyError

HALF = 0.5
LISTED = 5  # groups named at each end of the ranking


@dataclass(frozen=True)
class ShownCurve:
    """How the loss rises when one group or block alone is cut.

    Attributes:
        name: of the group or the block.
        full: channels of the dense network's group; 1 for a block.
        rises: kept channels, ascending and below ``full`` → rise of the loss above the dense network's, at least
            one; 0 is a block that is dropped.
    """

    name: str
    full: int
    rises: Mapping[int, float]

    @property
    def is_block(self) -> bool:
        """Return whether it is dropped whole or kept."""
        return self.full == 1

    def rise_at(self, share: float) -> float | None:
        """Return the rise when this share of the channels is kept, on straight lines between what was measured.

        ``None`` below the fewest channels that were measured.

        >>> ShownCurve("conv1", 16, {4: 0.8, 12: 0.2}).rise_at(0.5), ShownCurve("conv1", 16, {12: 0.2}).rise_at(0.5)
        (0.5, None)
        """
        points = [*self.rises.items(), (self.full, 0.0)]
        wanted = share * self.full
        place = bisect_left([kept for kept, _ in points], wanted)
        (right, high) = points[place]
        if right == wanted:
            return high
        if place == 0:
            return None
        left, low = points[place - 1]
        return low + (high - low) * (wanted - left) / (right - left)


@dataclass(frozen=True)
class ShownSensitivity:
    """Every curve, in the order of the network, the dense network's loss, and what was measured."""

    dense_loss: float
    curves: tuple[ShownCurve, ...]
    measure: str = sensitivity.LOSS

    @property
    def words(self) -> str:
        """Return what a curve shows, in words."""
        return "divergence from the dense answers" if self.measure == sensitivity.DIVERGENCE else "rise of the loss"

    @property
    def groups(self) -> tuple[ShownCurve, ...]:
        """Return the curves of channels."""
        return tuple(curve for curve in self.curves if not curve.is_block)

    @property
    def blocks(self) -> tuple[ShownCurve, ...]:
        """Return the curves of blocks."""
        return tuple(curve for curve in self.curves if curve.is_block)

    def ranked(self) -> list[tuple[ShownCurve, float]]:
        """Return the groups that were cut to half or less with the rise at half their channels, the largest first."""
        found = [(curve, rise) for curve in self.groups if (rise := curve.rise_at(HALF)) is not None]
        return sorted(found, key=lambda pair: -pair[1])

    def extremes(self) -> tuple[list[tuple[ShownCurve, float]], list[tuple[ShownCurve, float]]]:
        """Return up to five groups that matter most and up to five others that matter least, each end first."""
        ranked = self.ranked()
        most = ranked[:LISTED]
        return most, ranked[len(most) :][-LISTED:][::-1]

    def to_json(self) -> JsonObject:
        """Return plain types for JSON: the extremes at half their channels, and every block."""
        most, least = ([_entry(*pair) for pair in end] for end in self.extremes())
        blocks: list[JsonObject] = [
            {"name": block.name, "rise": rise} for block in self.blocks for rise in block.rises.values()
        ]
        head: JsonObject = {"dense_loss": self.dense_loss, "measure": self.measure, "kept_share": HALF}
        return {**head, "most": most, "least": least, "blocks": blocks}


def read_sensitivity(path: Path) -> ShownSensitivity | None:
    """Return what was measured, or ``None`` if there is no such file.

    Raises:
        StudyError: if the file is damaged or of another version.
    """
    if not path.exists():
        return None
    try:
        stored = sensitivity.Sensitivity.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{str(path)!r} cannot be read ({type(error).__name__}: {error}); restore it from a copy, or delete it and "
            f"report without it"
        ) from error
    curves = (ShownCurve(name, curve.full, curve.rises) for name, curve in stored.curves.items())
    return ShownSensitivity(stored.dense_loss, tuple(curve for curve in curves if curve.rises), stored.measure)


def sensitivity_lines(found: ShownSensitivity | None) -> list[str]:
    """Return which groups matter most and least, a line each; none if no group was cut to half."""
    most, least = found.extremes() if found else ([], [])
    what = "the loss rises" if found is None or found.measure == sensitivity.LOSS else "the answers move"
    lines = [f"{what} most when one group alone is cut to half: {_listed(most)}"] if most else []
    return [*lines, f"and least: {_listed(least)}"] if least else lines


def _entry(curve: ShownCurve, rise: float) -> JsonObject:
    return {"name": curve.name, "channels": curve.full, "rise": rise}


def _listed(pairs: Sequence[tuple[ShownCurve, float]]) -> str:
    return ", ".join(f"{curve.name} {rise:+.3g}" for curve, rise in pairs)
