"""The 2:4 pattern: two of every four weights along a row are zero, as the sparse kernels of GPUs need it."""

from __future__ import annotations

import torch
from torch import Tensor

TWO_OF_FOUR = "2:4"


def why_not_two_of_four(weight: Tensor) -> str | None:
    """Return why a weight cannot have the pattern, in words, or ``None`` if it can.

    Args:
        weight: ``(outputs, …)``; a row is all that one output reads.

    >>> why_not_two_of_four(torch.zeros(8, 3, 3, 3))
    'its rows hold 27 weights, which is not a multiple of 4'
    """
    length = weight.flatten(1).shape[1]
    return f"its rows hold {length} weights, which is not a multiple of 4" if length % 4 else None


def lowest_two_of_four(rows: Tensor) -> Tensor:
    """Return a bool tensor that is true at the two lowest of every four scores along a row.

    Args:
        rows: scores ``(outputs, length)``, ``length`` a multiple of 4.

    Returns:
        shape ``(outputs · length / 4, 4)``, in the order of the scores.

    >>> lowest_two_of_four(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
    tensor([[False,  True, False,  True]])
    """
    return lowest_of_each_row(rows.reshape(-1, 4), 2)


def lowest_of_each_row(scores: Tensor, count: int) -> Tensor:
    """Return a bool tensor that is true at the ``count`` lowest scores of each row, ties in order of index."""
    order = torch.argsort(scores, dim=1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :count], True)
