"""Which trials are worth showing: domination, the front, its hypervolume, its knee, and the pick.

Accuracy on a few hundred or thousand examples is known to about half a point, so a front of all
non-dominated trials is an echo of noise. The front here is noise-aware: values within their standard
error count as equal (:func:`front`); ``noise_aware=False`` gives every non-dominated trial.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.analysis.luck import luck_of_the_best
from autoprune.analysis.quality_limits import QualityLimits
from autoprune.core.arrays import Floats
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.preference import COST_OF, PREFERRED, Preference
from autoprune.core.trial import Completed, Trial
from autoprune.errors import NothingFitsError, UsageError

_NO_LIMITS = QualityLimits()
_ROWS_AT_ONCE = 256  # of a comparison of everyone with everyone: bounds its memory


def measured(trials: Sequence[Trial]) -> list[tuple[Trial, Measurement]]:
    """Return the completed trials with what they measured, in order."""
    return [(trial, trial.outcome.measurement) for trial in trials if isinstance(trial.outcome, Completed)]


def minimised(measurements: Sequence[Measurement], objectives: Sequence[str]) -> Floats:
    """Return the objectives as an array of shape ``(n, num_objectives)`` in which smaller is better."""
    points = np.empty((len(measurements), len(objectives)))
    for column, name in enumerate(objectives):  # a column at once: thousands of trials are asked for often
        sign = METRICS[name].minimised(1.0)
        points[:, column] = sign * np.array([one.values[name] for one in measurements], dtype=np.float64)
    return points


def non_dominated(points: Floats) -> NDArray[np.bool_]:
    """Return which rows no other row dominates; of equal rows all stay.

    A row dominates another if it is nowhere larger and somewhere smaller. O(n log n) for up to three
    objectives (Kung, Luccio & Preparata 1975, in moocore).

    Args:
        points: shape ``(n, d)``, smaller is better.

    Returns:
        shape ``(n,)``.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    import moocore

    if not len(points):
        return np.zeros(0, dtype=bool)
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def front(trials: Sequence[Trial], objectives: Sequence[str], noise_aware: bool = True) -> list[Trial]:
    """Return the trials worth choosing from, by the first objective, best first.

    With ``noise_aware``, a non-dominated trial is left out if another one that stays is better in some
    objective by more than noise and in no objective worse by more than noise. Noise is the larger of the
    two standard errors, and 2 % for costs that proposals fill a budget with. No trial on the front is
    beaten so by another one, and there is always one.

    Args:
        trials: any trials; only completed ones can be on the front.
        objectives: metric names, the quality first.
        noise_aware: whether values within their standard error count as equal.
    """
    found = measured(trials)
    points = minimised([m for _, m in found], objectives)
    keys = [(*row, trial.number) for row, (trial, _) in zip(points.tolist(), found, strict=True)]
    best = sorted(np.flatnonzero(non_dominated(points)), key=lambda index: keys[index])
    keep = [found[index] for index in best]
    stays = _unbeaten([m for _, m in keep], objectives) if noise_aware else range(len(keep))
    return [keep[index][0] for index in stays]


def _unbeaten(measurements: Sequence[Measurement], objectives: Sequence[str]) -> list[int]:
    """Return which measurements stay: those nobody beats, and again those nobody beats once the beaten are gone.

    Beating beyond noise is not transitive, so what only a beaten one beats stays.
    """
    beats = _beats(measurements, objectives)
    stays = np.zeros(len(measurements), dtype=bool)
    open_ = ~stays
    while open_.any():
        free = open_ & ~beats[open_].any(axis=0)
        if not free.any():  # noise in several objectives can close a circle in which each beats the next
            free[np.argmax(open_)] = True  # its first one stays
        stays |= free
        open_ &= ~(free | beats[free].any(axis=0) | beats[:, free].any(axis=1))
    return [int(index) for index in np.flatnonzero(stays)]


def _beats(measurements: Sequence[Measurement], objectives: Sequence[str]) -> NDArray[np.bool_]:
    """Return whether one dominates the other beyond noise, shape ``(n, n)``: the row beats the column. O(n² d)."""
    known = [_values_and_noise(measurements, name) for name in objectives]
    found = np.zeros((len(measurements), len(measurements)), dtype=bool)
    for start in range(0, len(measurements), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        better, worse = np.zeros_like(found[rows]), np.zeros_like(found[rows])
        for values, errors, resolutions in known:
            noise = np.maximum(np.maximum.outer(errors[rows], errors), np.minimum.outer(resolutions[rows], resolutions))
            better |= values[rows, None] < values[None, :] - noise
            worse |= values[None, :] < values[rows, None] - noise
        found[rows] = better & ~worse
    return found


def _values_and_noise(measurements: Sequence[Measurement], name: str) -> tuple[Floats, Floats, Floats]:
    """Return a metric's values, smaller being better, and what says when two of them count as equal, each ``(n,)``.

    Two networks do if they differ by no more than the larger standard error; or, for a cost that follows from the
    policy, than its resolution, that of the cheaper one: candidates of one budget use 98–100 % of it as rounding
    fell, and nobody should win by that.
    """
    values = minimised(measurements, [name])[:, 0]
    errors = np.array([m.error(name) for m in measurements], dtype=np.float64)
    return values, errors, METRICS[name].resolution * np.abs(values)


def reference_point(dense: Measurement, objectives: Sequence[str]) -> Floats:
    """Return the corner that the hypervolume is measured from: no accuracy, at the dense network's costs.

    A quality that should be small has no natural worst; twice the dense network's is taken (:meth:`Metric.worst`).
    """
    known = [(METRICS[name], dense.values.get(name, 1.0)) for name in objectives]
    return np.array([metric.minimised(value if metric.is_cost else metric.worst(value)) for metric, value in known])


def hypervolume(trials: Sequence[Trial], objectives: Sequence[str], dense: Measurement) -> float:
    """Return the share of the box between the reference point and perfection that the trials dominate.

    Perfection is accuracy 1, loss 0 and cost 0 (:meth:`Metric.perfect`), so the value is in [0, 1] and comparable
    between runs of one study.

    Source: Zitzler & Thiele 1998; computed by moocore (Fonseca, Paquete & López-Ibáñez 2006).
    """
    return hypervolume_of(minimised([m for _, m in measured(trials)], objectives), objectives, dense)


def hypervolume_of(points: Floats, objectives: Sequence[str], dense: Measurement) -> float:
    """Return :func:`hypervolume` of points that :func:`minimised` returned, shape ``(n, num_objectives)``."""
    import moocore

    reference = reference_point(dense, objectives)
    known = [(METRICS[name], dense.values.get(name, 1.0)) for name in objectives]
    perfect = np.array([metric.minimised(metric.perfect(value)) for metric, value in known])
    inside = points[(points < reference).all(axis=1)] if len(points) else points
    box = float(np.prod(reference - perfect))
    if not len(inside) or not box:
        return 0.0
    reached = np.maximum(inside, perfect)  # what has no natural best may be better than what was taken for it
    return float(moocore.hypervolume(reached, ref=reference)) / box


def knee(trials: Sequence[Trial], objectives: Sequence[str]) -> Trial | None:
    """Return the trial nearest to the ideal point once every objective is scaled to the front's range.

    ``None`` if fewer than three trials leave no bend to speak of.

    Source: Branke et al. 2004, Finding Knees in Multi-objective Optimization; the distance-to-ideal variant.
    """
    found = measured(trials)
    if len(found) < 3:
        return None
    points = minimised([m for _, m in found], objectives)
    spread = points.max(axis=0) - points.min(axis=0)
    scaled = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return found[int(np.argmin(np.linalg.norm(scaled, axis=1)))][0]


def best_within(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    prefer: Preference = PREFERRED,
    dense: Measurement | None = None,
) -> Trial | None:
    """Return the best completed trial that meets a budget, or ``None``.

    Among those whose quality is within one standard error of the best, the cheapest wins in what is preferred (the
    one standard error rule); of those that cost the same within noise, the one with the lowest validation loss: the
    steadier signal breaks ties that accuracy cannot. The best of many trials is flattered by luck. Where that may be
    all of its lead over the dense network (:func:`is_lead_luck`), the dense network's quality takes its place.

    Args:
        trials: any trials.
        budget: absolute limits; may be empty.
        quality: what they are judged by.
        prefer: what decides between networks that are as good within noise: ``latency`` takes the fastest, ``size``
            the smallest, ``accuracy`` the one with the lowest loss. A cost that was not measured of all of them
            decides nothing.
        dense: what was measured of the dense network; ``None``: nothing is known of it.

    Source: Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees", section 3.4.3, for the one
        standard error rule.
    """
    fitting = _ranks_within(trials, budget, quality, prefer, dense)
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def ranked_within(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    prefer: Preference = PREFERRED,
    dense: Measurement | None = None,
) -> list[Trial]:
    """Return the completed trials that meet a budget, the most promising first, which :func:`best_within` returns.

    Those whose quality is near enough to what is aimed at come first, by what is preferred; then the others, by
    quality.
    """
    ranks = _ranks_within(trials, budget, quality, prefer, dense)
    return [trial for _, trial in sorted(ranks, key=lambda pair: pair[0])]


def is_lead_luck(trials: Sequence[Trial], budget: Budget, quality: Metric, dense: Measurement | None) -> bool:
    """Return whether the best trial within a budget is better than the dense network by no more than luck may give.

    Its own standard error says how much that is: differences to the others, example by example, are not asked. Without
    one, nothing is luck.

    Args:
        trials: any trials.
        budget: absolute limits; may be empty.
        quality: what they are judged by.
        dense: what was measured of the dense network; ``None``: nothing is known of it.
    """
    fitting = [m for _, m in measured(trials) if budget.admits(m)]
    return bool(fitting) and _lead_is_luck(fitting, quality, dense)


def _lead_is_luck(fitting: Sequence[Measurement], quality: Metric, dense: Measurement | None) -> bool:
    if dense is None or quality.name not in dense.values:
        return False
    top = max(fitting, key=lambda m: -quality.minimised(m[quality.name]))
    lead = quality.gain(top[quality.name], dense[quality.name])
    return 0 < lead <= luck_of_the_best(len(fitting), math.sqrt(2) * top.error(quality.name))


def _ranks_within(
    trials: Sequence[Trial], budget: Budget, quality: Metric, prefer: Preference, dense: Measurement | None
) -> list[tuple[tuple[bool, float, float, int], Trial]]:
    """Return the completed trials that meet a budget, each behind what it is ranked by, smaller being better."""
    fitting = [(trial, m) for trial, m in measured(trials) if budget.admits(m)]
    if not fitting:
        return []
    reached = quality.minimised(1.0) * np.array([m[quality.name] for _, m in fitting], dtype=np.float64)
    top = int(np.argmin(reached))
    aim = reached[top]
    if dense is not None and _lead_is_luck([m for _, m in fitting], quality, dense):
        aim = quality.minimised(dense[quality.name])
    worse = aim < reached - fitting[top][1].error(quality.name)
    second = np.where(worse, reached, _dearer([m for _, m in fitting], ~worse, prefer)).tolist()
    return [
        ((is_worse, value, found.values.get("loss", 0.0), trial.number), trial)
        for is_worse, value, (trial, found) in zip(worse.tolist(), second, fitting, strict=True)
    ]


def _dearer(measurements: Sequence[Measurement], near: NDArray[np.bool_], prefer: Preference) -> Floats:
    """Return what each network costs in what is preferred, 0 for those that are the cheapest ones within noise.

    Args:
        measurements: shape ``(n,)``.
        near: shape ``(n,)``, at least one of them true: between which ones the cost decides.
        prefer: what is preferred.

    Returns:
        shape ``(n,)``; zeros if the cost does not decide.
    """
    cost, equal = COST_OF[prefer], np.zeros(len(measurements))
    of_near = [m for m, is_near in zip(measurements, near.tolist(), strict=True) if is_near]
    if cost is None or not all(cost in m.values for m in of_near):
        return equal
    values = np.array([m.values.get(cost, np.inf) for m in measurements], dtype=np.float64)
    errors = np.array([m.error(cost) for m in measurements], dtype=np.float64)
    least = int(np.argmin(np.where(near, values, np.inf)))
    noise = np.maximum(np.maximum(errors, errors[least]), METRICS[cost].resolution * values[least])
    return np.where(values - values[least] <= noise, 0.0, values)


def choose(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    limits: QualityLimits = _NO_LIMITS,
    prefer: Preference = PREFERRED,
    dense: Measurement | None = None,
) -> Trial:
    """Return the trial to pick for a budget and, if given, limits of quality.

    With limits of quality alone, the cheapest trial that meets them is returned: fewest MFLOPs.

    Raises:
        NothingFitsError: naming the trial that comes nearest.
        UsageError: if the study does not measure what is limited.
    """
    return best_few(trials, budget, quality, 1, limits, prefer, dense)[0]


def best_few(
    trials: Sequence[Trial],
    budget: Budget,
    quality: Metric,
    count: int,
    limits: QualityLimits = _NO_LIMITS,
    prefer: Preference = PREFERRED,
    dense: Measurement | None = None,
) -> list[Trial]:
    """Return the trials most worth a longer fine-tune, the one that :func:`choose` returns first.

    The others follow as :func:`ranked_within` has them, no policy twice. With limits of quality alone the cheapest
    trial is asked for, in MFLOPs or what is preferred, and no other one is as cheap: there is one.

    Args:
        trials: any trials; only completed ones are returned.
        budget: absolute limits that all meet; may be empty.
        quality: what they are ranked by.
        count: how many, at least 1; fewer are returned if there are no more.
        limits: the worst values of qualities that will do; may be empty.
        prefer: what decides between those that are as good within noise, or good enough.
        dense: what was measured of the dense network; ``None``: nothing is known of it.

    Raises:
        NothingFitsError: naming the trial that comes nearest.
        UsageError: if ``count`` is below 1, or the study does not measure what is limited.
    """
    if count < 1:
        raise UsageError(f"{count} trials to pick from were asked for; ask for at least 1")
    found = measured(trials)
    if not found:
        raise NothingFitsError("nothing to pick: the study has no completed trial; run `autoprune search` first")
    limits.check_measured({name: value for _, m in found for name, value in m.values.items()})
    fitting = [trial for trial, m in found if budget.admits(m) and limits.admits(m)]
    if not fitting:
        raise NothingFitsError(_nearest_message(found, budget, quality, limits))
    if not budget.limits and limits:
        cheap = COST_OF[prefer] or "mflops"
        cheap = cheap if all(cheap in m.values for _, m in measured(fitting)) else "mflops"
        ranks = [(m[cheap], quality.minimised(m[quality.name])) for _, m in measured(fitting)]
        return [fitting[ranks.index(min(ranks))]]
    first_of = dict[PruningPolicy, Trial]()
    for trial in ranked_within(fitting, budget, quality, prefer, dense):
        first_of.setdefault(trial.candidate.policy, trial)
        if len(first_of) == count:
            break
    return list(first_of.values())


def _nearest_message(
    found: list[tuple[Trial, Measurement]], budget: Budget, quality: Metric, limits: QualityLimits
) -> str:
    """Say which trial misses by least, summed over what is asked."""
    trial, nearest = min(found, key=lambda pair: sum(budget.violations(pair[1]).values()) + limits.miss(pair[1]))
    wanted = [part for part in (budget.describe() if budget.limits else "", limits.describe()) if part]
    names = dict.fromkeys([quality, *limits.values, *(METRICS[name] for name in budget.limits)])
    shown = ", ".join(f"{one.name} {one.with_unit(nearest[one.name])}" for one in names if one.name in nearest.values)
    return (
        f"no trial of {len(found)} completed ones meets {' and '.join(wanted)}; the nearest is trial "
        f"{trial.number} with {shown}. Ask for that, or search on for what you asked"
    )
