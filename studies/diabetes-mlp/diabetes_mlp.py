"""Regression: how far diabetes progressed within a year, from ten measurements of a patient, by a perceptron."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune as ap

BATCH, HIDDEN = 32, 64
Patients = tuple[Tensor, Tensor]  # measurements (N, 10), progression (N,)
MEAN, SPREAD = 152.0, 77.0  # of the progression; so that the network answers in numbers about one


def patients() -> dict[str, Patients]:
    """Return scikit-learn's 442 patients in three splits."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    rows = torch.tensor(bunch.data, dtype=torch.float32)[order] * len(order) ** 0.5  # of variance one
    progression = torch.tensor(bunch.target, dtype=torch.float32)[order]
    parts = zip(rows.split([266, 88, 88]), progression.split([266, 88, 88]), strict=True)
    return dict(zip(("train", "val", "test"), parts, strict=True))


def network() -> nn.Module:
    """Return the dense perceptron, untrained."""
    return nn.Sequential(
        nn.Linear(10, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1), nn.Flatten(0)
    )


def task() -> ap.Task:
    """Return the data, what is learnt and how it is judged: by the root of the mean squared error, less is better."""
    of = patients()

    def shuffled(epoch: int, seed: int) -> list[Patients]:
        order = torch.randperm(len(of["train"][1]), generator=torch.Generator().manual_seed(1_000 * seed + epoch))
        return [(of["train"][0][rows], of["train"][1][rows]) for rows in order.split(BATCH)]

    return ap.Task(
        train=shuffled,
        val=[of["val"]],
        test=[of["test"]],
        loss=lambda answer, batch: F.mse_loss(answer, (batch[1] - MEAN) / SPREAD),
        score=lambda answer, batch: (MEAN + SPREAD * answer - batch[1]).square(),
        metric="rmse",
        name="diabetes",
        licence="public (scikit-learn's diabetes; Efron et al. 2004)",
        description="442 patients with ten measurements each, and how far their disease progressed within a year.",
        chance=77.0,
    )
