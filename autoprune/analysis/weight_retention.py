"""Which trials' weights are worth their place on disk: the front, the best of each budget, and the baselines.

A function of what is stored, so that collecting after a kill ends where it would have ended without one. A trial that
falls out may be named again later (beating beyond noise is not transitive), but its file is gone by then. Combined
with ``trial_weights``, which writes, reads and removes the files.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.analysis.pareto import front, measured, ranked_within
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import Trial

BEST = 3  # of each budget: as many as begin a pick by default


def retained_trials(
    trials: Sequence[Trial],
    objectives: Sequence[str],
    budget: Budget,
    quality: Metric,
    dense: Measurement | None = None,
) -> set[int]:
    """Return the numbers of the trials whose weights are kept where neither all nor none are.

    These are the noise-aware front, the three best within each budget that was ever asked for, and the baselines of
    the present one.

    Args:
        trials: every finished trial of the study; only completed ones are kept.
        objectives: metric names, the quality first.
        budget: absolute limits of the present run; may be empty.
        quality: what trials within a budget are ranked by.
        dense: what was measured of the dense network.
    """
    completed = [trial for trial, _ in measured(trials)]
    baselines = [trial for trial in completed if trial.candidate.is_baseline]
    asked = {str(one.to_json()): one for one in (budget, *(trial.candidate.budget for trial in baselines))}
    best = [trial for one in asked.values() for trial in ranked_within(completed, one, quality, dense=dense)[:BEST]]
    present = [trial for trial in baselines if trial.candidate.budget == budget]
    return {trial.number for trial in (*front(completed, objectives), *best, *present)}
