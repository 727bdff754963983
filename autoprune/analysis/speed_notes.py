"""How much faster the best network is than the others, in words.

Latencies of one study were all measured in alternation with the dense network, so their ratios can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.analysis.comparison import Comparison
from autoprune.core.measurement import CONFIDENT, Measurement
from autoprune.core.metrics import Metric
from autoprune.core.trial import Completed, Trial

LATENCY = "latency_ms"


def speed_up(one: Measurement, other: Measurement) -> tuple[float, float] | None:
    """Return how many times as fast one network is as another, and the standard error of that; ``None`` if not known.

    The error of a quotient a / b is a / b · √((se_a / a)² + (se_b / b)²), to first order.

    >>> speed_up(Measurement({"latency_ms": 2.0}, {"latency_ms": 0.125}), Measurement({"latency_ms": 3.0}))
    (1.5, 0.09375)
    """
    mine, theirs = one.values.get(LATENCY, 0.0), other.values.get(LATENCY, 0.0)
    if mine <= 0 or theirs <= 0:
        return None
    ratio = theirs / mine
    return ratio, ratio * math.hypot(one.error(LATENCY) / mine, other.error(LATENCY) / theirs)


def speed_notes(
    best: Trial | None, trials: Sequence[Trial], comparisons: Sequence[Comparison], dense: Measurement
) -> list[str]:
    """Return how much faster the best network is than those it is compared with, in a sentence.

    Args:
        best: the best network; ``None`` if there is none.
        trials: all finished trials.
        comparisons: what :func:`~autoprune.analysis.comparison.worth` found.
        dense: what was measured of the dense network.
    """
    if best is None or not isinstance(best.outcome, Completed) or LATENCY not in best.outcome.measurement.values:
        return []
    found = best.outcome.measurement
    known = {one.number: one.outcome.measurement for one in trials if isinstance(one.outcome, Completed)}
    parts = []
    for other in comparisons:
        told = speed_up(found, dense if other.trial is None else known[other.trial])
        if told is not None:
            name = "the dense network" if other.trial is None else other.baseline
            parts.append(f"{_times(told)} as fast as {name}")
    listed = [f"the best network is {', '.join(parts)}"] if parts else []
    return listed


def no_worse_notes(trials: Sequence[Trial], rivals: Sequence[Trial], quality: Metric) -> list[str]:
    """Return how much faster than each baseline the search is at no less quality, with 95 % intervals.

    Against each baseline it is the fastest searched network that is at least as good on validation. Being the fastest
    of several flatters it by what noise there is in a latency.

    Args:
        trials: completed ones within the budget, or not.
        rivals: the completed baselines of the budget.
        quality: what networks are judged by.
    """
    searched = [
        (one, one.outcome.measurement)
        for one in trials
        if isinstance(one.outcome, Completed) and not one.candidate.is_baseline
    ]
    parts = []
    for rival in rivals:
        told = _fastest_no_worse(rival, searched, quality)
        if told is not None:
            number, (ratio, error) = told
            ends = f" ({ratio - CONFIDENT * error:.2f} to {ratio + CONFIDENT * error:.2f})" if error else ""
            name = rival.candidate.origin.rpartition(":")[2]
            parts.append(f"{ratio:.2f}{ends} × as fast as {name} (trial {number})")
    return [f"at no less {quality.name} than each baseline the search is {', '.join(parts)}"] if parts else []


def _fastest_no_worse(
    rival: Trial, searched: Sequence[tuple[Trial, Measurement]], quality: Metric
) -> tuple[int, tuple[float, float]] | None:
    """Return the number of the fastest network that is as good as a baseline, and how much faster; ``None``: none."""
    if not isinstance(rival.outcome, Completed):
        return None
    theirs = rival.outcome.measurement
    as_good = [
        (one.number, told)
        for one, found in searched
        if quality.minimised(found[quality.name]) <= quality.minimised(theirs[quality.name])
        and (told := speed_up(found, theirs)) is not None
    ]
    return max(as_good, key=lambda pair: (pair[1][0], -pair[0])) if as_good else None


def _times(told: tuple[float, float]) -> str:
    """Return a speed-up with its standard error, if there is one.

    >>> _times((1.5, 0.125)), _times((2.0, 0.0))
    ('1.50 ± 0.12 ×', '2.00 ×')
    """
    return f"{told[0]:.2f} ± {told[1]:.2f} ×" if told[1] else f"{told[0]:.2f} ×"
