"""The refit of a batch norm: running statistics of what it reads now, and a line through what it should return."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

_FAR = 100.0  # a squared mean of so many variances costs two of the seven digits of float32


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


def variance_and_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance and the mean of each channel of ``(N, C, …)``, each ``(channels,)``.

    The mean square less the squared mean takes a tenth of the time of ``torch.var_mean``; where that would lose digits,
    as the mean is large against the deviation, the latter is taken.
    """
    dims = [dim for dim in range(x.dim()) if dim != 1]
    if x.dim() > 2 and x.device.type != "mps":  # which has no float64
        rows = x.flatten(2)
        mean = rows.mean(2).double().mean(0)
        square = torch.linalg.vector_norm(rows, dim=2).double().square().mean(0) / max(1, rows.shape[2])
        variance = square - mean.square()
        if bool((mean.square() <= _FAR * variance).all()):
            return variance.to(x), mean.to(x)
    variance, mean = torch.var_mean(x, dims, correction=0)
    return variance, mean


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
    variance, mean = variance_and_mean(given.float())
    rows, target = rows.cpu().double(), target.cpu().double()  # not every device has float64
    centre, wanted = rows.mean(0), target.mean(0)
    spread = (rows - centre).square().mean(0)
    gain = ((rows - centre) * (target - wanted)).mean(0) / (spread + norm.eps).sqrt()
    gain, wanted, spread = (values.to(mean) for values in (gain, wanted, spread))
    ok = torch.isfinite(mean) & torch.isfinite(variance) & torch.isfinite(gain) & torch.isfinite(wanted)
    if not bool(ok.any()) or norm.running_mean is None or norm.running_var is None:
        return False
    norm.running_mean.copy_(torch.where(ok, mean, norm.running_mean))
    norm.running_var.copy_(torch.where(ok, variance, norm.running_var))
    if norm.affine:
        norm.weight.copy_(torch.where(ok & (spread > 0), gain, norm.weight))
        norm.bias.copy_(torch.where(ok, wanted, norm.bias))
    return True
