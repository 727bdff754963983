"""The learning-rate schedule: a short linear warm-up, then a cosine towards zero."""

from __future__ import annotations

import math


def learning_rate(step: int, total: int, peak: float) -> float:
    """Return the rate of step 0 … ``total`` − 1: a linear warm-up over a tenth, then a cosine towards 0.

    >>> [round(learning_rate(step, 20, 1.0), 2) for step in (0, 1, 2, 11, 19)]
    [0.33, 0.67, 1.0, 0.5, 0.01]
    """
    warm = min(total // 10, 500)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
