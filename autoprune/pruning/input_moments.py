"""What is known of the inputs that a layer reads: their mean and their covariance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class InputMoments:
    """What a layer reads, in numbers; ``G`` groups of ``K`` inputs.

    Attributes:
        mean: ``(G, K)``, float64 on the CPU.
        covariance: ``(G, K, K)``, float32 on the CPU.
        rows: how many were seen.
    """

    mean: Tensor
    covariance: Tensor
    rows: int
