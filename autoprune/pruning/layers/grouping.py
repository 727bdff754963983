"""What a grouped convolution or group norm loses: whole groups, or the same channel of every group."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

_DECIDED = "_loses_whole_groups"


def loses_whole_groups(module: nn.Module) -> bool:
    """Return whether a grouped layer loses whole groups, or else channels of every group: the finer of the two.

    A layer that was cut goes on losing what it lost before.
    """
    decided: bool | None = getattr(module, _DECIDED, None)
    if decided is not None:
        return decided
    if isinstance(module, nn.GroupNorm):
        return module.num_groups >= module.num_channels // module.num_groups
    if isinstance(module, _ConvNd):
        return module.groups >= min(module.in_channels, module.out_channels) // module.groups
    return True


def decide_groups(module: nn.Module) -> bool:
    """Fix what a grouped layer loses from now on, and return whether it is whole groups."""
    decided = loses_whole_groups(module)
    setattr(module, _DECIDED, decided)
    return decided
