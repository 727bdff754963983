"""The latency that proposals are to beat: that of the fastest network that is good enough so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoprune.analysis.pareto import best_within
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.preference import Preference
from autoprune.core.trial import Trial, completed_measurement


@dataclass(frozen=True)
class LatencyAim:
    """The fastest network that is as good as the best one within noise.

    Attributes:
        predicted_ms: its latency as the study's model has it, which proposals are held to.
        measured_ms: as it was timed.
        is_settled: whether it is as good as the dense network, within its own standard error, and speed is what is
            preferred: no network that takes longer is worth a trial then, because none can be expected to be better.
    """

    predicted_ms: float
    measured_ms: float
    is_settled: bool


def latency_aim(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    dense: Measurement,
    prefer: Preference,
    predict: Callable[[PruningPolicy], float],
) -> LatencyAim | None:
    """Return what is to be beaten; ``None`` before any trial within the budget is completed.

    Args:
        trials: all finished ones, each with a latency.
        budget: absolute limits.
        quality: what networks are judged by.
        dense: what was measured of the dense network.
        prefer: what decides between networks that are as good within noise.
        predict: returns the predicted latency of a policy's network, in ms.
    """
    found = best_within(trials, budget, quality, "latency", dense)
    seen = completed_measurement(found) if found is not None else None
    if found is None or seen is None:
        return None
    lack = -quality.gain(seen[quality.name], dense[quality.name]) if quality.name in dense.values else float("inf")
    is_settled = prefer == "latency" and lack <= seen.error(quality.name)
    return LatencyAim(predict(found.candidate.policy), seen["latency_ms"], is_settled)
