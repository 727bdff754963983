"""Which of the dense network's outputs are left of each layer after a cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.pruning.channel_positions import positions_of, sizes_of
from autoprune.pruning.cut_plan import BLOCK, CutPlan

Lost = dict[tuple[str, int], set[int]]
"""(tensor path, dimension) → positions that went."""


def lost_positions(dense: nn.Module, cut: CutPlan) -> Lost:
    """Return what goes of every tensor of the dense network by a cut.

    Args:
        dense: the network that is cut.
        cut: what stays.

    Raises:
        ModelError: if the cut was made for another network.
    """
    lost: Lost = {}
    for path, kept in cut.items():
        if BLOCK in kept.sides:
            continue
        sizes = sizes_of(dense, path)
        for side, indices in kept.sides.items():
            gone = sorted(set(range(sizes[side])) - set(indices))
            for tensor, dim, positions in positions_of(dense, path, side, gone):
                lost.setdefault((tensor, dim), set()).update(positions)
    return lost


def kept_along(lost: Lost, tensor: str, dim: int, size: int) -> Tensor:
    """Return the positions of a tensor that stay along one dimension, ascending: ``(kept,)``."""
    gone = lost.get((tensor, dim), set())
    return torch.tensor([position for position in range(size) if position not in gone], dtype=torch.int64)
