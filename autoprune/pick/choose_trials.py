"""Which trials begin the longer fine-tune: those within a budget, good enough, or the one that was named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autoprune.analysis.pareto import best_few, measured
from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.preference import COST_OF, Preference
from autoprune.core.screened import ScreenedNetwork
from autoprune.core.trial import Completed, Trial, completed_measurement
from autoprune.errors import UsageError
from autoprune.loggers.console import how_it_ended
from autoprune.study.screened_file import read_screening
from autoprune.study.view import StudyView

NEAR = 0.9  # of a budget: what uses less was made for a lower one

LimitsOf = Callable[[Sequence[Metric], Measurement], QualityLimits]
"""(qualities of the study, what was measured of the dense network) → the worst values that will do."""


@dataclass(frozen=True)
class Wish:
    """What is to be picked.

    Attributes:
        limits: cost → limit, absolute or relative; empty for the study's last budget.
        number: the one trial to finish; ``None`` for the best within the budget.
        quality: how good it must be.
        top: candidates that begin the longer fine-tune; ``None`` for the study's own number.
        epochs: of the longer fine-tune; ``None`` for the study's own; without any there is no contest.
        prefer: what decides between trials that are equally good, or good enough; ``None`` for the study's own.
    """

    limits: Mapping[str, str]
    number: int | None = None
    quality: LimitsOf = lambda qualities, dense: QualityLimits({})
    top: int | None = None
    epochs: float | None = None
    prefer: Preference | None = None


def choose_trials(view: StudyView, wish: Wish) -> tuple[Budget, list[Trial]]:
    """Return the absolute budget that counts, and the trials that begin the longer fine-tune, the best first.

    There are none where one is to be solved for, as ``solve_budget`` does: no trial uses up a budget that was given,
    and the study's screening has seen networks that meet it, or nothing is to be trained and one of those is better.

    Raises:
        NothingFitsError: if no trial meets the wish.
        UsageError: if the trial that was named is not completed, a limit cannot be read, or what is preferred was not
            measured.
        BudgetError: if a limit is malformed, or on what the study does not measure.
    """
    asked = Budget.parse(wish.limits).in_units(view.dense) if wish.limits else None  # one above dense is allowed here
    if wish.number is not None:
        return asked or Budget(), [_completed(view, wish.number)]
    limits = wish.quality(view.spec.qualities, view.dense)
    budget = asked or (Budget() if limits else view.budget)
    epochs = view.spec.pick.epochs if wish.epochs is None else wish.epochs
    prefer = preference_of(view, wish.prefer)
    # without training there is no contest, nor for what is known exactly
    usual = view.spec.pick.top if epochs and prefer == "accuracy" else 1
    count = usual if wish.top is None else wish.top
    screened = [] if asked is None or limits else _screened_within(view, asked)
    if screened and not _near(view.trials, budget):
        return budget, []
    solved = [trial for trial in view.trials if trial.candidate.is_picked and trial.candidate.budget == budget]
    if screened and solved:
        return budget, solved[-1:]
    if screened and not epochs and _is_better_untrained(view, budget, screened):
        return budget, []
    return budget, best_few(view.trials, budget, view.spec.quality, count, limits, prefer, view.dense)


def preference_of(view: StudyView, asked: Preference | None) -> Preference:
    """Return what decides between trials that are equally good: as asked, or as the study has it.

    Without the costs that the study's own preference looks at, it is ``accuracy``.

    Raises:
        UsageError: if a preference was asked for whose cost not every completed trial has.
    """
    prefer = asked or view.spec.pick.prefer
    cost = COST_OF[prefer]
    if cost is None or all(cost in found.values for _, found in measured(view.trials)):
        return prefer
    if asked:
        raise UsageError(f"{prefer} was preferred, and not every trial has {cost}; prefer accuracy instead")
    return "accuracy"


def _screened_within(view: StudyView, budget: Budget) -> list[ScreenedNetwork]:
    """Return the networks within a budget that were looked at; none if the dense network is within it too."""
    known = budget.limits.keys() <= view.dense.values.keys()
    if not known or budget.admits(view.dense):
        return []
    seen = read_screening(view.folder.screened).networks
    return [one for one in seen if budget.limits.keys() <= one.costs.values.keys() and budget.admits(one.costs)]


def _is_better_untrained(view: StudyView, budget: Budget, screened: Sequence[ScreenedNetwork]) -> bool:
    """Return whether a screened network is better than every trial within a budget, by more than both errors."""
    quality = view.spec.quality
    trials = [found for _, found in measured(view.trials) if budget.admits(found)]
    seen = [one.quality for one in screened if one.quality and quality.name in one.quality.values]
    if not trials or not seen:
        return False
    trial, untrained = (max(found, key=lambda one: quality.gain(one[quality.name], 0.0)) for found in (trials, seen))
    noise = math.hypot(trial.error(quality.name), untrained.error(quality.name))
    return quality.gain(untrained[quality.name], trial[quality.name]) > noise


def _near(trials: Sequence[Trial], budget: Budget) -> bool:
    """Return whether a completed trial meets a budget and uses nine tenths of it."""
    found = [m for trial in trials if (m := completed_measurement(trial)) is not None and budget.admits(m)]
    return any(max(m[name] / limit.value for name, limit in budget.limits.items()) >= NEAR for m in found)


def _completed(view: StudyView, number: int) -> Trial:
    """Return a completed trial by its number.

    Raises:
        UsageError: if it is none.
    """
    found = next((trial for trial in view.trials if trial.number == number), None)
    if found is None or not isinstance(found.outcome, Completed):
        known = ", ".join(str(trial.number) for trial in view.trials if isinstance(trial.outcome, Completed))
        raise UsageError(
            f"trial {number} is not a completed trial of this study: {_ending(found, view.spec.qualities)}; "
            f"completed: {known or 'none'}"
        )
    return found


def _ending(trial: Trial | None, qualities: Sequence[Metric]) -> str:
    """Return why a trial cannot be finished."""
    if trial is None:
        return "it has not started, is running, or was interrupted and will be evaluated again"
    return f"it {how_it_ended(trial, None, qualities)}"
