"""The control that every criterion has to beat: random scores."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.importance import Calibration, uses_seed


@uses_seed
def random(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Draw uniform scores in [0, 1); the draw depends on the seed and the group's name only.

    Source: the control of Mittal et al. 2018, Recovering from Random Pruning, section 3.
    """
    seed = zlib.crc32(f"{calibration.seed}:{group.name}".encode())
    return torch.rand(group.num_channels, generator=torch.Generator().manual_seed(seed))
