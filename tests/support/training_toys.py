"""Tiny data and networks for the tests of this room."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.tasks.in_memory import Arrays, ArrayTask


def make_arrays(count: int, seed: int, classes: int = 3, side: int = 8) -> Arrays:
    """Return images whose class is the channel that is brightest, with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 120, (count, classes, side, side), generator=generator)
    images[torch.arange(count), labels] += 100
    return Arrays(images.to(torch.uint8), labels)


def make_task(train: int = 70, val: int = 30, test: int = 20, **options: object) -> ArrayTask:
    held_out = make_arrays(test, 3)
    return ArrayTask(
        "toy",
        make_arrays(train, 1),
        make_arrays(val, 2),
        lambda: held_out,
        test,
        **{"padding": 1, "flip": True, **options},  # type: ignore[arg-type]
    )


class Toy(nn.Module):
    """A convolution, batch norm, dropout and a classifier, in milliseconds."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.bn(self.conv(x)).relu().mean((2, 3))))


def make_toy(seed: int = 0, **options: float) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Toy(**options)  # type: ignore[arg-type]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
