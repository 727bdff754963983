"""The refit of a batch norm: running statistics of what it reads now, and a line through what it should return."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm


def scale_and_offset(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return ``s`` and ``o`` with which a batch norm in eval mode computes ``s · z + o``, each ``(channels,)``."""
    mean, variance = _statistics(norm)
    scale = torch.rsqrt(variance + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    offset = -mean * scale
    return scale, offset + norm.bias if norm.affine else offset


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    return (
        (torch.zeros(norm.num_features), torch.ones(norm.num_features))
        if mean is None or variance is None
        else (mean, variance)
    )


def refit_norm(norm: _BatchNorm, given: Tensor, rows: Tensor, target: Tensor) -> bool:
    """Give a batch norm the statistics of what it reads, and the line that is nearest to a target; in place.

    With ``z`` what is read and ``t`` the target, channel by channel, γ := cov(z, t) / std(z) and β := mean(t). A
    channel whose numbers are not finite keeps what it has, and so does γ of one that is constant.

    Args:
        norm: in eval mode, with running statistics.
        given: all that it reads, ``(N, C, …)``.
        rows: of that, on the grid, ``(rows, C)``.
        target: ``(rows, C)``.

    Returns:
        whether anything was changed.
    """
    dims = [dim for dim in range(given.dim()) if dim != 1]
    variance, mean = torch.var_mean(given.float(), dims, correction=0)
    centre, wanted = rows.double().mean(0), target.double().mean(0)
    spread = (rows.double() - centre).square().mean(0)
    shared = ((rows.double() - centre) * (target.double() - wanted)).mean(0)
    gain = shared / (spread + norm.eps).sqrt()
    ok = torch.isfinite(mean) & torch.isfinite(variance) & torch.isfinite(gain) & torch.isfinite(wanted)
    if not bool(ok.any()) or norm.running_mean is None or norm.running_var is None:
        return False
    norm.running_mean.copy_(torch.where(ok, mean, norm.running_mean))
    norm.running_var.copy_(torch.where(ok, variance, norm.running_var))
    if norm.affine:
        norm.weight.copy_(torch.where(ok & (spread > 0), gain.float(), norm.weight))
        norm.bias.copy_(torch.where(ok, wanted.float(), norm.bias))
    return True
