"""Classification: what a network for classes must answer, and how it is judged."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from training_toys import make_task

from autoprune.errors import ModelError
from autoprune.tasks.classification import LabelledBatch

BATCH = LabelledBatch(torch.ones(2, 3, 1, 1), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "network", [nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(3, 4))], ids=["image out", "4 for 3 classes"]
)
def test_outputs_of_another_shape_are_refused(network: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"expected one tensor of shape \(2, 3\).*as many outputs"):
        make_task().forward(network, BATCH)


def test_several_outputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    with pytest.raises(ModelError, match="returned tuple"):
        make_task().forward(Two(), BATCH)


def test_an_infinite_answer_is_seen_whatever_its_loss() -> None:
    logits = torch.tensor([[1.0, 0.0, -math.inf], [0.0, 1.0, 0.0]])
    losses = make_task().score_batch(logits, BATCH).losses
    assert losses.isnan().tolist() == [True, False]
