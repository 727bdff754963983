"""The uniform baseline that a picked network is compared with, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.budget import Budget
from autoprune.core.trial import Completed, Trial
from autoprune.pick.final_scores import FinalScores

UNIFORM = "baseline:uniform"


@dataclass(frozen=True)
class Rival:
    """The finished baseline that the winner is compared with."""

    trial: Trial
    final_scores: FinalScores


@dataclass(frozen=True)
class Incomparable:
    """A baseline that is missing, with the reason in a clause."""

    reason: str


def uniform_rival(trials: Sequence[Trial], budget: Budget, winner: Trial) -> Trial | Incomparable:
    """Return the uniform baseline of a budget, or why the winner cannot be compared with one.

    Args:
        trials: of the study.
        budget: absolute limits of the pick; if empty, those that the winner was made for count.
        winner: the trial that is picked.
    """
    wanted = budget if budget.limits else winner.candidate.budget
    if not wanted.limits:
        return Incomparable("there is no budget, so there is no uniform baseline of the same budget")
    for trial in trials:
        made_for_it = trial.candidate.origin == UNIFORM and _same_limits(trial.candidate.budget, wanted)
        if made_for_it and isinstance(trial.outcome, Completed):
            if trial.candidate.policy == winner.candidate.policy:
                return Incomparable("the pick is the uniform baseline itself")
            return trial
    return Incomparable(
        f"the study holds no completed uniform baseline for {wanted.describe()}; a search with this budget evaluates it"
    )


def _same_limits(one: Budget, other: Budget) -> bool:
    """Return whether two absolute budgets are the same, up to how a number was written."""
    return one.limits.keys() == other.limits.keys() and all(
        math.isclose(limit.value, other.limits[name].value, rel_tol=1e-6) for name, limit in one.limits.items()
    )
