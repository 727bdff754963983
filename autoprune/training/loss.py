"""The losses that networks are trained with: one for dense networks, one for pruned ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from autoprune.errors import UsageError
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.settings import FinetuneSettings

LossFunction: TypeAlias = Callable[[Any, Batch, Any], Tensor]
"""(output, batch, the teacher's output or ``None``) → the loss, a scalar."""


def dense_loss(task: DataTask) -> LossFunction:
    """Return the loss of a dense network, the task's own for it; a teacher is ignored."""
    return lambda output, batch, answers: task.dense_loss(output, batch)


def finetune_loss(task: DataTask, settings: FinetuneSettings) -> LossFunction:
    """Return the loss of a pruned network: the task's, mixed with the teacher's answers where there are any.

    With weight w it is (1 − w) · loss + w · distillation.

    Raises:
        UsageError: when called, if the task cannot say how far a student is from its teacher.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531,
    section 2.
    """

    def loss(output: Any, batch: Batch, answers: Any) -> Tensor:
        if answers is None:
            return task.loss(output, batch)
        soft = task.distill(output, answers, batch, settings.temperature)
        if soft is None:
            raise UsageError(
                f"nothing says how far the outputs for {task.name} are from a teacher's; give the task "
                "distill=lambda student, teacher, batch: …, or set finetune.distill to false"
            )
        return (1 - settings.distill_weight) * task.loss(output, batch) + settings.distill_weight * soft

    return loss
