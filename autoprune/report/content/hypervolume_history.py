"""How the search advanced: the hypervolume of what had completed, after each trial or at 200 of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.analysis import pareto
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed, Trial

POINTS = 200


@dataclass(frozen=True)
class History:
    """The hypervolume over time, and what the baselines alone reach.

    Attributes:
        finished: trials that had finished, ascending.
        seconds: spent in those trials.
        hypervolume: share of the box that :func:`hypervolume` measures, in [0, 1).
        baselines: the hypervolume of the completed baselines alone.
    """

    finished: tuple[int, ...]
    seconds: tuple[float, ...]
    hypervolume: tuple[float, ...]
    baselines: float

    def to_json(self) -> JsonObject:
        """Return plain types for JSON, rounded to what a plot can show."""
        return {
            "finished": list(self.finished),
            "seconds": [round(value, 1) for value in self.seconds],
            "hypervolume": [round(value, 6) for value in self.hypervolume],
            "baselines": round(self.baselines, 6),
        }


def history(trials: Sequence[Trial], objectives: Sequence[str], dense: Measurement) -> History:
    """Return how the hypervolume grew over the trials in order, the last one included.

    Only what nothing dominates is carried from one point to the next, so 5,000 trials take as many steps as 200.
    """
    finished, seconds, reached = list[int](), list[float](), list[float]()
    kept = pareto.minimised([], objectives)
    spent = 0.0
    for start, end in _pieces(len(trials)):
        piece = trials[start:end]
        spent += sum(trial.total_seconds for trial in piece)
        new = pareto.minimised([m for _, m in pareto.measured(piece)], objectives)
        points = np.concatenate([kept, new])
        kept = points[pareto.non_dominated(points)]
        finished.append(end)
        seconds.append(spent)
        reached.append(pareto.hypervolume_of(kept, objectives, dense))
    baselines = [trial for trial in trials if trial.candidate.is_baseline and isinstance(trial.outcome, Completed)]
    alone = pareto.hypervolume(baselines, objectives, dense)
    return History(tuple(finished), tuple(seconds), tuple(reached), alone)


def _pieces(count: int) -> list[tuple[int, int]]:
    """Return where each piece begins and ends, at most 200 of them, of similar length.

    >>> _pieces(3), len(_pieces(5000)), _pieces(5000)[-1]
    ([(0, 1), (1, 2), (2, 3)], 200, (4975, 5000))
    """
    pieces = min(count, POINTS)
    ends = [round(count * (index + 1) / pieces) for index in range(pieces)]
    return list(zip([0, *ends], ends, strict=False))
