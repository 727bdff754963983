"""What was looked at without training, as ``screened.jsonl`` holds it: in words, as JSON, and as a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoprune.analysis.foretelling import Foretelling, estimated_rises, foretelling, screened_front
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.screened import Screening
from autoprune.core.trial import Trial

_AS_GOOD = 0.9  # rank correlation from which on looks tell networks apart as well as a short fine-tune does


@dataclass(frozen=True)
class ScreenedPoint:
    """One network on the screened front.

    Attributes:
        number: of the screened network.
        cost: in the metric's unit; a latency is predicted.
        rise: of its answers from the dense network's, after a compensation pass or what that is estimated to leave.
        quality: what the task judges it by without training; ``None``: it had no
            compensation pass.
        stderr: of the quality; ``None`` if it is not known.
    """

    number: int
    cost: float
    rise: float
    quality: float | None
    stderr: float | None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "number": self.number,
            "cost": self.cost,
            "rise": self.rise,
            "quality": self.quality,
            "stderr": self.stderr,
        }


@dataclass(frozen=True)
class ShownScreening:
    """What a report says of a study's screening.

    Attributes:
        networks: how many were looked at.
        compensated: how many of them had a whole compensation pass.
        foretold: how well the looks foretold the final losses.
        curves: cost → networks that no cheaper one is as near the dense network as, from cheap to dear.
    """

    networks: int
    compensated: int
    foretold: Foretelling
    curves: Mapping[str, tuple[ScreenedPoint, ...]] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; costs are in their units, a latency is predicted."""
        return {
            "networks": self.networks,
            "compensated": self.compensated,
            "foretold": self.foretold.to_json(),
            "curves": {cost: [point.to_json() for point in points] for cost, points in self.curves.items()},
        }


def shown_screening(
    screening: Screening,
    trials: Sequence[Trial],
    channels: Mapping[str, int],
    dense: Measurement,
    costs: Sequence[str],
    quality: str,
) -> ShownScreening | None:
    """Return what a report says of a screening; ``None`` if nothing was looked at.

    Args:
        screening: as it is stored.
        trials: all finished ones.
        channels: group → channels of the dense network.
        dense: what was measured of the dense network.
        costs: metrics that networks are drawn against.
        quality: metric that networks are judged by.
    """
    networks = screening.networks
    if not networks:
        return None
    told = foretelling(networks, trials, channels, dense.values.get("loss", 0.0))
    rises = dict(zip((one.number for one in networks), estimated_rises(networks).tolist(), strict=True))
    curves = {}
    for cost in costs:
        points = []
        for one in screened_front(networks, cost):
            seen = one.quality.values.get(quality) if one.quality else None
            error = one.quality.stderr.get(quality) if one.quality else None
            points.append(ScreenedPoint(one.number, one.costs[cost], rises[one.number], seen, error))
        if points:
            curves[cost] = tuple(points)
    compensated = sum(one.compensated is not None for one in networks)
    return ShownScreening(len(networks), compensated, told, curves)


def screening_notes(shown: ShownScreening | None) -> list[str]:
    """Return how many networks were looked at, and how well that foretold what trials ended with."""
    if shown is None:
        return []
    looked = f"{shown.networks} networks were looked at without training, {shown.compensated} of them twice"
    if not shown.foretold.is_known:
        return [f"{looked}; how well that foretells a trial is known once four of them are trained"]
    told = shown.foretold
    enough = "; they tell networks apart as well as a short fine-tune does" if told.agreement >= _AS_GOOD else ""
    return [
        f"{looked}: the looks rank the {told.pairs} of them that became trials as their final losses do, to "
        f"{told.agreement:.2f} (Spearman){enough}"
    ]
