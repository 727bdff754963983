"""Two towers: one knows users, one items; how well their answers agree is the rating.

Source: Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys 2016, for the idea.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def tower(count: int, size: int, hidden: int, features: int) -> nn.Module:
    """Return a tower: ids → embeddings → features; id 0 is nobody's, and stays zero."""
    return nn.Sequential(
        nn.Embedding(count, size, padding_idx=0), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, features)
    )


class TwoTower(nn.Module):
    """The rating of each pair: the product of both towers' features, and a bias of each."""

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.user, self.item = tower(num_users, 32, 64, 17), tower(num_items, 32, 64, 17)
        self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Return ratings, ``(N,)``."""
        one, other = self.user(users), self.item(items)
        agreed = (one[:, 1:] * other[:, 1:]).sum(1)
        return self.mean + one[:, 0] + other[:, 0] + agreed


def network(num_users: int, num_items: int) -> nn.Module:
    """Return two towers for so many ids."""
    return TwoTower(num_users, num_items)
