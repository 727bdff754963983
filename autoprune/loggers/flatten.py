"""Trials as the flat names, numbers and texts that trackers of experiments want."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed, Failed, OverBudget, Stopped, Trial, Untimed
from autoprune.loggers.protocol import Standing
from autoprune.study.spec import is_told_only

Values = dict[str, float]


def measured_of(trial: Trial) -> Values:
    """Return what was measured of a trial, in each metric's unit, and ``NAME_stderr``; fractions are in [0, 1].

    A stopped trial has what was measured before it was stopped, one over budget its exact costs, a failed one nothing.
    """
    return {} if isinstance(trial.outcome, Failed) else values_of(trial.outcome.measurement)


def values_of(measurement: Measurement) -> Values:
    """Return a measurement's values, and its standard errors as ``NAME_stderr``."""
    return {**measurement.values, **{f"{name}_stderr": error for name, error in measurement.stderr.items()}}


def seconds_of(trial: Trial) -> Values:
    """Return phase → seconds, with ``total``."""
    return {**trial.seconds, "total": trial.total_seconds}


def reason_of(trial: Trial) -> str:
    """Return why a trial did not complete, in words; empty for one that did."""
    match trial.outcome:
        case Stopped(reason, _):
            return reason
        case Failed(error, message, _):
            return f"{error}: {message}"
        case OverBudget(_, violations):
            return ", ".join(f"{name} by {100 * over:.1f} %" for name, over in violations.items())
        case Untimed(reason):
            return f"no latency yet: {reason}"
        case Completed():
            return ""


def chosen_of(trial: Trial) -> dict[str, float | str]:
    """Return what was chosen for a trial: its origin, seed and budget, and its policy group by group."""
    candidate, policy = trial.candidate, trial.candidate.policy
    chosen: dict[str, float | str] = {"origin": candidate.origin, "seed": candidate.seed}
    chosen |= {f"budget/{name}": limit.value for name, limit in candidate.budget.limits.items()}
    chosen |= {f"sparsity/{name}": group.sparsity for name, group in policy.groups.items()}
    chosen |= {f"importance/{name}": group.importance for name, group in policy.groups.items()}
    chosen |= {"dropped_blocks": ", ".join(policy.dropped_blocks)} if policy.dropped_blocks else {}
    if policy.mask is not None:
        chosen |= {"mask/pattern": policy.mask.pattern, "mask/criterion": policy.mask.criterion}
        chosen |= {f"mask/sparsity/{layer}": sparsity for layer, sparsity in policy.mask.layers.items()}
    return chosen


def standing_of(standing: Standing) -> Values:
    """Return ``best/…`` of the best trial within the budget, and ``search/…``: trials by outcome, hypervolume.

    ``best/…`` has its number, every quality of its, its loss and its costs: not what was only looked at on the way.
    """
    best: Mapping[str, float] = {}
    if standing.best is not None and isinstance(standing.best.outcome, Completed):
        measured = standing.best.outcome.measurement.values
        told = {name: value for name, value in measured.items() if not is_told_only(name)}
        best = {"trial": float(standing.best.number), **told}
    search = {name: float(count) for name, count in standing.counts.items()}
    search |= {"trials": float(sum(standing.counts.values())), "hypervolume": standing.hypervolume}
    return {**{f"best/{name}": v for name, v in best.items()}, **{f"search/{name}": v for name, v in search.items()}}
