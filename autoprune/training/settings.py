"""How a network is trained: :class:`FinetuneSettings`, the same for dense networks and pruned ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["sgd", "adamw"]
OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "adamw")


@dataclass(frozen=True)
class FinetuneSettings:
    """How a network is trained.

    Attributes:
        epochs: passes over the training examples; may be a fraction. 0 trains nothing.
        batch_size: examples per step.
        lr: peak learning rate.
        weight_decay: L2 penalty, for AdamW the decay of a step per learning rate; not applied to biases and
            normalisation.
        distill: whether a teacher takes part; only fine-tuning looks at this.
        temperature: softness of the teacher's answers, T.
        distill_weight: share of the teacher in the loss, w in [0, 1].
        optimizer: ``sgd``, with Nesterov momentum 0.9, or ``adamw``, which transformers need.
    """

    epochs: float
    batch_size: int
    lr: float
    weight_decay: float
    distill: bool = False
    temperature: float = 4.0
    distill_weight: float = 0.9
    optimizer: Optimizer = "sgd"


def total_steps(per_epoch: int, settings: FinetuneSettings) -> int:
    """Return how many steps a training takes: epochs × batches of an epoch, rounded.

    There is at least one step unless ``epochs`` is 0.

    >>> total_steps(4, FinetuneSettings(epochs=1.5, batch_size=32, lr=0.1, weight_decay=0.0))
    6
    """
    if settings.epochs <= 0:
        return 0
    return max(1, round(settings.epochs * per_epoch))
