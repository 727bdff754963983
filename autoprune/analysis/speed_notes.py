"""How much faster the best network is than the others, in words.

Latencies of one study were all measured in alternation with the dense network, so their ratios can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprune.analysis.comparison import Comparison
from autoprune.core.measurement import Measurement
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


def _times(told: tuple[float, float]) -> str:
    """Return a speed-up with its standard error, if there is one.

    >>> _times((1.5, 0.125)), _times((2.0, 0.0))
    ('1.50 ± 0.12 ×', '2.00 ×')
    """
    return f"{told[0]:.2f} ± {told[1]:.2f} ×" if told[1] else f"{told[0]:.2f} ×"
