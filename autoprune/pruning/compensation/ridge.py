"""The solution of one layer: ridge regression that pulls towards the weights that are there."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.pruning.compensation.moments import Moments

RIDGE = 0.05


def ridge_change(moments: Moments, ridge: float = RIDGE) -> Tensor:
    """Return by how much the weights change: ``(G, K, O)`` in float64, zeros for outputs that are better left.

    With ``A`` the second moments of the inputs and ``C`` those of inputs and errors, the change is
    ``(A + λ · mean(diag A) · I)⁻¹ C``. The pull is towards the weights that are there, so an input that is always zero
    keeps its weight. An output is left alone if its change is not finite, or would not lessen its squared error on
    these rows. Takes O(K³) steps for each group.

    Args:
        moments: of one layer.
        ridge: λ, as a share of the mean second moment.

    Source: Hoerl and Kennard, "Ridge Regression", Technometrics 1970, eq. 2.1, about the present weights; as in AMC's
    reconstruction of channels, He et al. 2018, arXiv:1802.03494, section 3.4.
    """
    inputs, cross = moments.inputs, moments.cross
    scale = inputs.diagonal(dim1=1, dim2=2).mean(1)
    damped = inputs + ridge * scale[:, None, None] * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    if not bool(torch.isfinite(damped).all()):
        return torch.zeros_like(cross)
    factor, failed = torch.linalg.cholesky_ex(damped)
    change = torch.cholesky_solve(cross, factor)
    change = torch.where((failed == 0)[:, None, None], change, torch.zeros_like(change))
    less = 2 * (change * cross).sum(1) - (change * (inputs @ change)).sum(1)  # of each output's mean squared error
    is_better = torch.isfinite(change).all(1) & torch.isfinite(less) & (less > 0)
    return torch.where(is_better.unsqueeze(1), change, torch.zeros_like(change))
