"""Detection: handwritten digits of three sizes on a canvas, found by a small anchor-free detector in its own loop.

There is no task here: :func:`train` trains and :func:`score` judges, as a project's own scripts would.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor, nn
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

SIZE, STRIDE, BATCH = 48, 4, 20
COUNTS = {"train": 800, "val": 200, "test": 200}  # canvases
DIGITS = 4  # on each canvas


class Canvases(NamedTuple):
    """Images (N, 1, 48, 48), the boxes (N, 4, 4) of their digits (left, top, right, bottom), and which they are."""

    images: Tensor
    boxes: Tensor
    labels: Tensor


@cache
def digits(split: str) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return scikit-learn's images of a split by side, 8, 12 or 16 pixels, and their digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    first, last = {"train": (0, 1079), "val": (1079, 1438), "test": (1438, 1797)}[split]
    chosen = np.random.default_rng(0).permutation(len(bunch.target))[first:last]
    images = torch.tensor(bunch.images[chosen, None], dtype=torch.float32) / 16
    sides = {side: F.interpolate(images, (side, side), mode="bilinear")[:, 0].numpy() for side in (8, 12, 16)}
    return sides, bunch.target[chosen]


def canvases(split: str, seed: int) -> Canvases:
    """Return a split's canvases, each digit somewhere in a quarter of its own."""
    draw, count = np.random.default_rng(seed), COUNTS[split]
    images = draw.random((count, SIZE, SIZE), dtype=np.float32) * 0.2
    drawn = [[_put(image, quarter, split, draw) for quarter in range(DIGITS)] for image in images]
    boxes = torch.tensor([[box for box, _ in each] for each in drawn], dtype=torch.float32)
    return Canvases(torch.from_numpy(images)[:, None], boxes, torch.tensor([[label for _, label in e] for e in drawn]))


def _put(image: np.ndarray, quarter: int, split: str, draw: Generator) -> tuple[tuple[int, int, int, int], int]:
    """Draw a digit into a quarter of an image; return its box and which it is."""
    sides, labels = digits(split)
    side, which = int(draw.choice((8, 12, 16))), int(draw.integers(len(labels)))
    down, right = draw.integers(SIZE // 2 - side + 1, size=2).tolist()
    top, left = SIZE // 2 * (quarter // 2) + down, SIZE // 2 * (quarter % 2) + right
    patch = image[top : top + side, left : left + side]
    np.maximum(patch, sides[side][which] * draw.uniform(0.6, 1.0), out=patch)
    return (left, top, left + side, top + side), int(labels[which])


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Detector(nn.Module):
    """A cell for every 4x4 pixels says which digit is centred there, and how far the edges of its box are."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(1, width, 2), _convolution(width, 2 * width, 2))
        self.body = nn.Sequential(*(_convolution(2 * width, 2 * width) for _ in range(3)))
        self.neck = _convolution(2 * width, 4 * width)
        self.digit, self.box = nn.Conv2d(4 * width, 10, 1), nn.Conv2d(4 * width, 4, 1)
        nn.init.constant_(self.digit.bias, -4.0)  # most cells hold nothing, and say so from the start

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits of the digits, (N, 10, 12, 12), and distances to the edges in pixels, (N, 4, 12, 12)."""
        stem = self.stem(images)
        features = self.neck(stem + self.body(stem))
        return {"digit": self.digit(features), "box": (2 + self.box(features)).exp()}


def network() -> nn.Module:
    """Return the dense detector, untrained."""
    return Detector()


def example() -> Tensor:
    """Return what the detector is called with."""
    return torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def _cells(device: torch.device) -> Tensor:
    """Return the middle of every cell, (144, 2): x and y."""
    steps = torch.arange(SIZE // STRIDE, device=device) * STRIDE + STRIDE / 2
    return torch.cartesian_prod(steps, steps).flip(1)


def _boxes(distances: Tensor) -> Tensor:
    """Return boxes (N, 144, 4) from distances to the edges (N, 4, 12, 12)."""
    cells, far = _cells(distances.device), distances.flatten(2).transpose(1, 2)
    return torch.cat([cells - far[..., :2], cells + far[..., 2:]], 2)


def loss(output: dict[str, Tensor], truth: Canvases) -> Tensor:
    """Return the focal loss of all cells, and the generalised IoU loss of those near the middle of a digit."""
    middles = (truth.boxes[..., :2] + truth.boxes[..., 2:]) / 2
    is_near = (_cells(middles.device)[:, None] - middles[:, None]).abs().amax(3) <= 3  # (N, 144, digits)
    found, owner = is_near.any(2), is_near.int().argmax(2)
    wanted = F.one_hot(truth.labels.gather(1, owner), 10) * found[..., None]
    logits = output["digit"].flatten(2).transpose(1, 2)
    focal = sigmoid_focal_loss(logits, wanted.to(logits), reduction="sum")
    true = truth.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    overlap = generalized_box_iou_loss(_boxes(output["box"])[found], true[found], reduction="sum")
    return (focal + overlap) / found.sum()


def train(network: nn.Module, steps: int, seed: int, on_step) -> None:
    """Train a detector in place: AdamW, its learning rate up for a tenth of the steps and down again."""
    device, peak = next(network.parameters()).device, 5e-3
    optimizer = torch.optim.AdamW(network.parameters(), peak, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler
    is_short = steps <= 10  # a tenth of them is no step, and OneCycleLR divides by it
    schedule = rates.ConstantLR(optimizer, 1.0) if is_short else rates.OneCycleLR(optimizer, peak, steps, pct_start=0.1)
    network.train()
    done = 0
    while done < steps:
        every = canvases("train", 1_000 * seed + done)
        for batch in zip(*(part.to(device).split(BATCH) for part in every), strict=True):
            optimizer.zero_grad()
            loss(network(batch[0]), Canvases(*batch)).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            done += 1
            on_step(done, steps)
            if done == steps:
                return


@torch.no_grad()
def detect(network: nn.Module, images: Tensor) -> list[dict[str, Tensor]]:
    """Return the boxes, scores and labels that a detector finds in each image, the surest first."""
    output = network.eval()(images)
    found = []
    for boxes, logits in zip(_boxes(output["box"]), output["digit"].flatten(2).transpose(1, 2), strict=True):
        scores, labels = logits.sigmoid().max(1)
        kept = batched_nms(boxes, scores, labels, 0.5)[:20]
        found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]})
    return found


def score(network: nn.Module, split: str) -> float:
    """Return the mean average precision of a detector, over digits and IoU from 0.5 to 0.95."""
    from torchmetrics.detection import MeanAveragePrecision

    device = next(network.parameters()).device
    truth = canvases(split, {"train": 0, "val": 1, "test": 2}[split])
    metric = MeanAveragePrecision()
    true = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(truth.boxes, truth.labels, strict=True)]
    found = detect(network, truth.images.to(device))
    metric.update([{key: value.cpu() for key, value in each.items()} for each in found], true)
    return float(metric.compute()["map"])
