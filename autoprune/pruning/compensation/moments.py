"""Second moments of what a layer reads and of what its outputs lack, summed chunk by chunk.

Products are taken in float32 and added up in float64. What is read is shifted by the mean of the first rows, so that
little is lost where means are large against deviations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FEW = 512  # rows
_STRIPES, _NARROWEST = 4, 64  # of a symmetric product, and columns of each


@dataclass(frozen=True)
class Moments:
    """Means and second moments over all rows, in float64 on the CPU; ``G`` groups, ``K`` inputs, ``O`` outputs.

    Attributes:
        rows: how many.
        mean_input: ``(G, K)``.
        mean_error: ``(G, O)``.
        inputs: of the inputs, ``(G, K, K)``.
        cross: of inputs and errors, ``(G, K, O)``.
        errors: mean squares of the errors, about zero always, ``(G, O)``.
    """

    rows: int
    mean_input: Tensor
    mean_error: Tensor
    inputs: Tensor
    cross: Tensor
    errors: Tensor


class MomentSums:
    """Sums over the chunks that were added so far."""

    def __init__(self) -> None:
        self._rows = 0
        self._shift = torch.empty(0)
        self._sums: list[Tensor] = []

    @property
    def rows(self) -> int:
        """Return how many rows were added."""
        return self._rows

    def add(self, inputs: Tensor, errors: Tensor) -> None:
        """Add a chunk.

        Args:
            inputs: ``(G, rows, K)``, float32.
            errors: target less output, ``(G, rows, O)``, float32.
        """
        if not self._rows:
            self._shift = inputs[:, :_FEW].mean(1, keepdim=True)  # near the mean is enough
        shifted = inputs - self._shift
        turned = shifted.transpose(1, 2)
        chunk = [shifted.sum(1), errors.sum(1), _gram(shifted), turned @ errors, errors.square().sum(1)]
        self._rows += inputs.shape[1]
        added = [value.double() if value.device.type != "mps" else value.cpu().double() for value in chunk]
        self._sums = [a + b for a, b in zip(self._sums, added, strict=True)] if self._sums else added

    def moments(self, centred: bool) -> Moments:
        """Return the moments, about the means if ``centred``, else about zero."""
        shifted, error, inputs, cross, errors = (value.cpu() / self._rows for value in self._sums)
        mean = shifted + self._shift.cpu().double().squeeze(1)
        # the covariance is that of the shifted inputs; about zero it is that and the product of the means
        inputs = inputs - shifted.unsqueeze(2) * shifted.unsqueeze(1)
        cross = cross - shifted.unsqueeze(2) * error.unsqueeze(1)
        if not centred:
            inputs = inputs + mean.unsqueeze(2) * mean.unsqueeze(1)
            cross = cross + mean.unsqueeze(2) * error.unsqueeze(1)
        return Moments(self._rows, mean, error, inputs, cross, errors)


def _gram(rows: Tensor) -> Tensor:
    """Return the products of all columns with each other, ``(G, K, K)``, of ``(G, rows, K)``.

    The matrix is symmetric, so of each stripe only what lies on or beyond the diagonal is computed: 0.63 of the work.
    """
    turned, columns = rows.transpose(1, 2), rows.shape[2]
    width = max(_NARROWEST, -(-columns // _STRIPES))
    found = rows.new_empty(rows.shape[0], columns, columns)
    for first in range(0, columns, width):
        last = min(first + width, columns)
        stripe = turned[:, first:last] @ rows[:, :, first:]
        found[:, first:last, first:] = stripe
        found[:, last:, first:last] = stripe[:, :, last - first :].transpose(1, 2)
    return found
