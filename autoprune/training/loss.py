"""The losses that networks are trained with: one for dense networks, one for pruned ones."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from autoprune.training.distillation import distillation_loss
from autoprune.training.settings import FinetuneSettings

LossFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits ``(N, classes)``, labels ``(N,)``, the teacher's logits or ``None``) → the loss, a scalar."""

_LABEL_SMOOTHING = 0.1  # of the dense network only; a teacher's soft answers do the same for a student


def dense_loss(logits: Tensor, labels: Tensor, answers: Tensor | None = None) -> Tensor:
    """Return the loss of a dense network: cross-entropy with label smoothing 0.1. ``answers`` are ignored."""
    return F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)


def finetune_loss(settings: FinetuneSettings) -> LossFunction:
    """Return the loss of a pruned network: cross-entropy, mixed with the teacher's answers where there are any."""

    def loss(logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        if answers is None:
            return F.cross_entropy(logits, labels)
        return distillation_loss(logits, labels, answers, settings.temperature, settings.distill_weight)

    return loss
