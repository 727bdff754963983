"""What a network has reached on a split, by one metric: from a row for each example to a value and its standard error.

Used wherever answers are scored, of a network in PyTorch and of an exported file alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprune.core.arrays import Floats
from autoprune.core.paired_scores import PairedScores
from autoprune.tasks.task import resamples

REPLICATES = 200  # of a metric over resampled examples
_RESAMPLED_NUMBERS = 200_000_000  # that are drawn in all, at most
_FEWEST_REPLICATES = 50


@dataclass(frozen=True)
class ReachedScore:
    """A metric over all examples of a split.

    Attributes:
        value: the metric.
        stderr: its standard error; ``None`` if it is not known.
        paired: what was made of each example.
    """

    value: float
    stderr: float | None
    paired: PairedScores


def reached(rows: Tensor, reduce: Callable[[Tensor], float] | None) -> ReachedScore:
    """Return what rows of scores amount to.

    Args:
        rows: one for each example, ``(N,)`` or ``(N, k)``, N ≥ 1; booleans say which are right.
        reduce: makes the value of all rows; ``None`` for their mean.
    """
    count = len(rows)
    if reduce is not None:
        value, replicates = float(reduce(rows)), _resampled(rows, reduce)
        spread = float(replicates.std(ddof=1)) if count > 1 and np.isfinite(replicates).all() else None
        return ReachedScore(value, spread, PairedScores.resampled(value, replicates, count))
    if rows.dtype == torch.bool:
        right = int(rows.sum())
        return ReachedScore(right / count, proportion_stderr(right, count), PairedScores.pack(rows.numpy()))
    values = rows.double()
    spread = float(values.std(correction=1)) / math.sqrt(count) if count > 1 else None
    return ReachedScore(float(values.mean()), spread, PairedScores.pack(values.numpy()))


def _resampled(rows: Tensor, reduce: Callable[[Tensor], float]) -> Floats:
    """Return a metric over examples drawn with replacement, the same ones for every network."""
    times = max(_FEWEST_REPLICATES, min(REPLICATES, _RESAMPLED_NUMBERS // max(1, rows.numel())))
    return np.array([float(reduce(rows[torch.from_numpy(index)])) for index in resamples(len(rows), times)])


def proportion_stderr(right: int, count: int) -> float:
    """Return the standard error of a proportion, such as an accuracy, which is never zero.

    With p̃ = (right + 2) / (count + 4), it is √(p̃ (1 − p̃) / (count + 4)): two hits and two misses are added. By the
    textbook √(p (1 − p) / count), a network without a mistake on 10 examples would be perfect for certain.

    >>> round(proportion_stderr(500, 1000), 4), round(proportion_stderr(10, 10), 3)
    (0.0158, 0.094)

    Source: Agresti and Coull, "Approximate is better than 'exact' for interval estimation of binomial
    proportions", The American Statistician 52 (1998), section 4.
    """
    share = (right + 2) / (count + 4)
    return math.sqrt(share * (1 - share) / (count + 4))
