"""The learning-rate schedule: a short linear warm-up, then a cosine towards zero."""

from __future__ import annotations

import math
from collections.abc import Mapping

RATES: Mapping[str, tuple[float, float, float]] = {"sgd": (0.01, 0.03, 0.1), "adamw": (0.0003, 0.001, 0.003)}
"""Optimizer → the peak rates that are tried where nobody says one; the middle one is usual."""


def usual_rate(optimizer: str) -> float:
    """Return the peak rate that an optimizer has where none is tried.

    >>> usual_rate("sgd"), usual_rate("adamw")
    (0.03, 0.001)
    """
    return RATES[optimizer][1]


def learning_rate(step: int, total: int, peak: float) -> float:
    """Return the rate of step 0 … ``total`` − 1: a linear warm-up over a tenth, then a cosine towards 0.

    >>> [round(learning_rate(step, 20, 1.0), 2) for step in (0, 1, 2, 11, 19)]
    [0.33, 0.67, 1.0, 0.5, 0.01]
    """
    warm = min(total // 10, 500)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
