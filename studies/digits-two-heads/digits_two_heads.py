"""Two tasks at once: which digit an image shows, and how much ink it took, by two heads on one ResNet-20."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap
from autoprune.models.cifar_resnet import resnet20

BATCH = 32
Images = tuple[Tensor, Tensor, Tensor]  # images, their digits, their ink
Answer = dict[str, Tensor]


@cache
def digits(split: str) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's images of a split, (N, 1, 16, 16) in [0, 1], and their digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    first, last = {"train": (0, 1079), "val": (1079, 1438), "test": (1438, 1797)}[split]
    images = torch.tensor(bunch.images, dtype=torch.float32)[order[first:last], None] / 16
    return F.interpolate(images, scale_factor=2, mode="bilinear"), torch.tensor(bunch.target)[order[first:last]]


def batches(split: str, seed: int | None = None) -> list[Images]:
    """Return images, digits and ink (per cent of a black image); with a seed shuffled, each shifted and dimmed."""
    images, labels = digits(split)
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=draw)
        images, labels = images[order] * (0.8 + 0.2 * torch.rand(len(order), 1, 1, 1, generator=draw)), labels[order]
        down, right = torch.randint(0, 5, (2, len(order), 1), generator=draw) + torch.arange(16)
        each = torch.arange(len(order))[:, None, None]
        images = F.pad(images, (2, 2, 2, 2))[each, 0, down[:, :, None], right[:, None, :]][:, None]
    parts = (images, labels, 100 * images.mean((1, 2, 3)))
    return list(zip(*(part.split(BATCH) for part in parts), strict=True))


class TwoHeads(nn.Module):
    """A ResNet-20 whose features two linear layers read."""

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet20(in_channels=1)
        self.body.fc = nn.Identity()
        self.digit, self.ink = nn.Linear(64, 10), nn.Linear(64, 1)

    def forward(self, images: Tensor) -> Answer:
        """Return logits of the digit, (N, 10), and the ink, (N,)."""
        features = self.body(images)
        return {"digit": self.digit(features), "ink": 30 + 10 * self.ink(features).squeeze(1)}


def network() -> nn.Module:
    """Return the dense network, untrained."""
    return TwoHeads()


def loss(answer: Answer, batch: Images) -> Tensor:
    """Return the sum of both heads' losses, the ink's in units of ten per cent."""
    return F.cross_entropy(answer["digit"], batch[1]) + F.smooth_l1_loss(answer["ink"] / 10, batch[2] / 10)


def score(answer: Answer, batch: Images) -> dict[str, Tensor]:
    """Return of each image whether its digit is right, and the squared error of its ink."""
    return {"accuracy": answer["digit"].argmax(1) == batch[1], "rmse": (answer["ink"] - batch[2]).square()}


def task() -> ap.Task:
    """Return the data, what is learnt and how it is judged: the accuracy leads, the ink's error is shown beside it."""
    return ap.Task(
        train=lambda epoch, seed: batches("train", 1_000 * seed + epoch),
        val=batches("val"),
        test=batches("test"),
        loss=loss,
        score=score,
        metric=[ap.Metric("accuracy"), ap.Metric("rmse", "% ink")],
        name="digits and their ink",
        licence="CC BY 4.0 (scikit-learn's digits)",
        description="Handwritten digits of 16x16 pixels: which one, and how much of the image is ink.",
        chance=0.1,
    )
