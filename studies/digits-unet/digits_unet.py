"""Segmentation: handwritten digits on a noisy canvas, and a U-Net that says of each pixel which digit it is of."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap

SIZE, BATCH = 32, 20
CLASSES = 11  # the background, and ten digits
COUNTS = {"train": 800, "val": 200, "test": 200}  # canvases


@cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's images of a split, (N, 8, 8) in [0, 1], and their digits; no image is in two splits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    first, last = {"train": (0, 1079), "val": (1079, 1438), "test": (1438, 1797)}[split]
    chosen = np.random.default_rng(0).permutation(len(bunch.target))[first:last]
    return bunch.images[chosen] / 16, bunch.target[chosen]


def canvases(split: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (N, 1, 32, 32) of four digits each, and the class of every pixel, (N, 32, 32); 0 is background.

    Each digit lies in a quarter of its own, moved and dimmed at random; its pixels are those with ink.
    """
    draw, count = np.random.default_rng(seed), COUNTS[split]
    glyphs, labels = digits(split)
    images = draw.random((count, SIZE, SIZE), dtype=np.float32) * 0.2
    masks = np.zeros((count, SIZE, SIZE), dtype=np.int64)
    for image, mask, quarter in ((image, mask, q) for image, mask in zip(images, masks, strict=True) for q in range(4)):
        which, (down, right) = draw.integers(len(labels)), draw.integers(9, size=2)
        top, left = 16 * (quarter // 2) + down, 16 * (quarter % 2) + right
        patch = image[top : top + 8, left : left + 8]
        np.maximum(patch, glyphs[which] * draw.uniform(0.6, 1.0), out=patch, casting="same_kind")
        mask[top : top + 8, left : left + 8][glyphs[which] > 0.3] = labels[which] + 1
    return torch.from_numpy(images)[:, None], torch.from_numpy(masks)


def batches(split: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return the canvases of a split in batches."""
    images, masks = canvases(split, seed)
    return list(zip(images.split(BATCH), masks.split(BATCH), strict=True))


class DoubleConvolution(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Two levels down and up again; what each level saw on the way down is concatenated on the way up."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = DoubleConvolution(1, width), DoubleConvolution(width, 2 * width)
        self.bottom = DoubleConvolution(2 * width, 4 * width)
        self.rise2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.up2 = DoubleConvolution(4 * width, 2 * width)
        self.rise1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up1 = DoubleConvolution(2 * width, width)
        self.classes = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of every pixel, (N, 11, H, W)."""
        fine = self.down1(images)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([middle, self.rise2(coarse)], 1))
        return self.classes(self.up1(torch.cat([fine, self.rise1(middle)], 1)))


def network() -> nn.Module:
    """Return the dense U-Net, untrained."""
    return UNet()


def loss(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy over pixels; the background, which is most of them, counts for less."""
    weights = torch.tensor([0.2] + [1.0] * 10)
    return F.cross_entropy(logits, batch[1], weights.to(logits))


def overlaps(logits: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return of each canvas the pixels in the intersection and in the union of every class, (N, 22)."""
    said = F.one_hot(logits.argmax(1), CLASSES).flatten(1, 2).bool()
    true = F.one_hot(batch[1], CLASSES).flatten(1, 2).bool()
    return torch.cat([(said & true).sum(1), (said | true).sum(1)], 1).float()


def miou(rows: Tensor) -> float:
    """Return the mean over classes of intersection over union, both counted over all canvases."""
    common, either = rows.sum(0).view(2, CLASSES)
    return float((common[either > 0] / either[either > 0]).mean())


def task() -> ap.Task:
    """Return the data, what is learnt and how it is judged; every epoch draws new canvases."""
    return ap.Task(
        train=lambda epoch, seed: batches("train", 1_000 * seed + epoch),
        val=batches("val", 1),
        test=batches("test", 2),
        loss=loss,
        score=overlaps,
        reduce=miou,
        metric=ap.Metric("miou"),
        name="digits on a canvas",
        licence="CC BY 4.0 (scikit-learn's digits)",
        description="Four handwritten digits on a canvas of 32x32 pixels; the class of every pixel.",
    )
