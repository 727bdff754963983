"""The masked twin of a norm whose statistics run over channels: they are those of the channels that stay."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from autoprune.pruning.layers.grouping import loses_whole_groups


class MaskedLayerNorm(nn.Module):
    """A norm over some channels of the last dimension, or of dimension 1 in groups; the others become zero.

    The twin of a layer, root-mean-square or group norm that was cut: its statistics are those of what stays.

    Args:
        norm: the dense norm.
        kept: the channels that stay, ascending.
    """

    def __init__(self, norm: nn.LayerNorm | nn.RMSNorm | nn.GroupNorm, kept: tuple[int, ...]) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept
        self.eps = math.nan  # equal to no other: nn.TransformerEncoderLayer then does not take its fused path past us
        self.last = not isinstance(norm, nn.GroupNorm) and not _is_channels_first(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised input, of the same shape."""
        index = torch.tensor(self.kept, device=x.device)
        dim = -1 if self.last else 1
        chosen = x.index_select(dim, index)
        weight = None if self.norm.weight is None else self.norm.weight[index]
        shift = self.norm._parameters.get("bias")  # a root-mean-square norm has none
        bias = None if shift is None else shift[index]
        if isinstance(self.norm, nn.RMSNorm):
            done = nn.functional.rms_norm(chosen, (len(self.kept),), weight, self.norm.eps)
        elif isinstance(self.norm, nn.GroupNorm):
            per_group = self.norm.num_channels // self.norm.num_groups
            groups = len(self.kept) // per_group if loses_whole_groups(self.norm) else self.norm.num_groups
            done = nn.functional.group_norm(chosen, groups, weight, bias, self.norm.eps)
        else:
            chosen = chosen.movedim(dim, -1)
            done = nn.functional.layer_norm(chosen, (len(self.kept),), weight, bias, self.norm.eps).movedim(-1, dim)
        return torch.zeros_like(x).index_copy(dim, index, done)


def _is_channels_first(norm: nn.Module) -> bool:
    """Return whether a layer norm is one of the common subclasses that normalise dimension 1 of an image.

    It is tried on an image whose last dimension does not fit.
    """
    if type(norm).forward is nn.LayerNorm.forward or not isinstance(norm, nn.LayerNorm):
        return False
    channels = norm.normalized_shape[0]
    like = next(norm.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            norm(torch.zeros(1, channels, 1, channels + 1, dtype=like.dtype, device=like.device))
    except (RuntimeError, ValueError, IndexError):
        return False
    return True
