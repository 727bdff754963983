"""The latency that proposals are to beat: that of the fastest network that is good enough so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoprune.analysis.pareto import best_within
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.preference import Preference
from autoprune.core.trial import Trial, completed_measurement

LONGER = 1.5  # × the latency of the fastest network that is level with the dense one: what may still be worth a trial
_LEVEL = 0.5  # standard errors below the dense network that count as level with it


@dataclass(frozen=True)
class LatencyAim:
    """What is known of good networks' latencies, in ms.

    Attributes:
        fastest_ms: what the fastest network is predicted to take that is as good as the best within noise.
        longest_ms: what a proposal may be predicted to take; infinite where a slower network may be worth a trial.
        longest_measured_ms: the same as it is timed.
    """

    fastest_ms: float
    longest_ms: float = math.inf
    longest_measured_ms: float = math.inf

    @property
    def is_bounded(self) -> bool:
        """Return whether there is a bound: speed is preferred, and slower networks are of no use."""
        return self.longest_ms < math.inf


def latency_aim(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    dense: Measurement,
    prefer: Preference,
    predict: Callable[[PruningPolicy], float],
) -> LatencyAim | None:
    """Return what is to be beaten; ``None`` before any trial within the budget is completed.

    None can be expected to be better than the dense network. So where speed is preferred, one that takes longer than
    that is of no use, and once a network is level with it, by half its own standard error, one that takes much longer
    than this.

    Args:
        trials: all finished ones, each with a latency.
        budget: absolute limits.
        quality: what networks are judged by.
        dense: what was measured of the dense network.
        prefer: what decides between networks that are as good within noise.
        predict: returns the predicted latency of a policy's network, in ms.
    """
    found = best_within(trials, budget, quality, "latency", dense)
    if found is None:
        return None
    fastest_ms = predict(found.candidate.policy)
    if prefer != "latency":
        return LatencyAim(fastest_ms)
    longest_ms, longest_measured_ms = predict(PruningPolicy()), dense["latency_ms"]
    level = _fastest_level(trials, budget, quality, dense)
    if level is not None:
        policy, measured_ms = level
        longest_ms = min(longest_ms, LONGER * max(fastest_ms, predict(policy)))
        longest_measured_ms = min(longest_measured_ms, LONGER * measured_ms)
    return LatencyAim(min(fastest_ms, longest_ms), longest_ms, longest_measured_ms)


def _fastest_level(
    trials: Sequence[Trial], budget: Budget, quality: Metric, dense: Measurement
) -> tuple[PruningPolicy, float] | None:
    """Return the fastest network that is level with the dense one, and what it took; ``None`` if none is."""
    if quality.name not in dense.values:
        return None
    known = ((trial, completed_measurement(trial)) for trial in trials)
    level = [
        (seen["latency_ms"], trial)
        for trial, seen in known
        if seen is not None
        and quality.gain(seen[quality.name], dense[quality.name]) >= -_LEVEL * seen.error(quality.name)
        and budget.admits(seen)
    ]
    if not level:
        return None
    measured_ms, trial = min(level, key=lambda pair: (pair[0], pair[1].number))
    return trial.candidate.policy, measured_ms
