"""What luck adds to the best of several networks that were compared on the same examples."""

from __future__ import annotations

import math
import statistics


def luck_of_the_best(choices: int, stderr: float) -> float:
    """Return by how much the best of several equally good networks comes out above their mean by chance alone.

    A network's own noise is the standard error of a difference over √2; the largest of k normal values lies about
    Φ⁻¹((k − 3/8) / (k + 1/4)) standard deviations above their mean.

    Args:
        choices: how many there are, k ≥ 1.
        stderr: of the difference between two of them.

    Source: Blom 1958, "Statistical Estimates and Transformed Beta-Variables", for the expected largest value.

    >>> round(luck_of_the_best(100, 0.005), 4), luck_of_the_best(1, 0.005)
    (0.0088, 0.0)
    """
    return statistics.NormalDist().inv_cdf((choices - 3 / 8) / (choices + 1 / 4)) * stderr / math.sqrt(2)
