"""The budgets that networks are looked at for: a ladder over all costs, or the one budget of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.budget import Budget, Limit
from autoprune.search.proposals.budget_projection import Projector

SHARES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)  # of the dense network's cost
CURVE = "curve"  # the part of a screening that is over all budgets
CURVE_SHARE = 0.75  # of all networks; the others lie on the run's own budget
_LATENCY_LEVELS = 6
_LEAST_ROOM = 1.02  # a level this little above the smallest network of the space leaves nothing to choose


@dataclass(frozen=True)
class ScreeningPart:
    """A part of a screening, planned.

    Attributes:
        name: ``"curve"``, or a budget's text.
        steps: networks that are looked at.
        levels: projectors onto the budgets that take turns.
    """

    name: str
    steps: int
    levels: tuple[Projector, ...]


def curve_part(plain: Projector, timed: Projector | None, networks: int) -> ScreeningPart:
    """Return the part over all budgets: a dozen shares of the dense MFLOPs, and of the latency that is predicted.

    Args:
        plain: of the space, with closed-form costs.
        timed: the same with a predicted ``latency_ms``; ``None`` if latency is not traded.
        networks: of the whole screening.
    """
    levels = [*_ladder(plain, "mflops", SHARES)]
    if timed is not None:
        whole, least = timed.measure_full()["latency_ms"], replace(timed, budget=Budget({})).least("latency_ms")
        levels += _ladder(timed, "latency_ms", np.geomspace(min(0.97, 1.1 * least / whole), 0.97, _LATENCY_LEVELS))
    return ScreeningPart(CURVE, round(CURVE_SHARE * networks), tuple(levels))


def budget_part(budget: Budget, projector: Projector, networks: int) -> ScreeningPart | None:
    """Return the part on the budget of one run; ``None`` without any limit that can be met beforehand.

    Args:
        budget: absolute, which names the part.
        projector: onto it; a limit on latency is met as it was predicted before the first trial.
        networks: of the whole screening.
    """
    if not projector.limits:
        return None
    return ScreeningPart(str(budget.to_json()), networks - round(CURVE_SHARE * networks), (projector,))


def _ladder(projector: Projector, cost: str, shares: Sequence[float] | Floats) -> list[Projector]:
    """Return projectors onto shares of one dense cost, without those that cannot be reached."""
    whole, least = projector.measure_full()[cost], replace(projector, budget=Budget({})).least(cost)
    limits = [share * whole for share in map(float, shares) if share * whole >= _LEAST_ROOM * least]
    return [replace(projector, budget=Budget({cost: Limit(limit)})) for limit in dict.fromkeys(limits)]
