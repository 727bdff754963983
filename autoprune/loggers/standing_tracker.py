"""Where a search stands after each trial: the best within the budget, the hypervolume, the counts by outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoprune.analysis import pareto
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import KINDS, Completed, Trial, kind_of
from autoprune.loggers.protocol import Standing


class StandingTracker:
    """A search followed trial by trial; the work for each does not grow with the trials that cannot win.

    Args:
        objectives: metric names.
        budget: absolute limits that the best must meet.
        dense: what was measured of the dense network.
        quality: what networks are judged by.
    """

    def __init__(self, objectives: Sequence[str], budget: Budget, dense: Measurement, quality: Metric) -> None:
        self._objectives, self._budget, self._dense, self._quality = objectives, budget, dense, quality
        self._fitting: list[Trial] = []
        self._front: list[Trial] = []
        self._counts = Counter(dict.fromkeys(KINDS, 0))

    def add(self, trial: Trial) -> None:
        """Take in the next trial."""
        self._counts[kind_of(trial.outcome)] += 1
        if isinstance(trial.outcome, Completed):
            self._front.append(trial)
            if self._budget.admits(trial.outcome.measurement):
                self._fitting.append(trial)

    @property
    def standing(self) -> Standing:
        """Return where the search stands after the trials so far."""
        self._front = pareto.front(self._front, self._objectives, noise_aware=False)
        return Standing(
            pareto.best_within(self._fitting, self._budget, self._quality, dense=self._dense),
            pareto.hypervolume(self._front, self._objectives, self._dense),
            dict(self._counts),
        )
