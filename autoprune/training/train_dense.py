"""Training of the dense network from scratch."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from autoprune.training.loop import TrainingRun, TrainReport, train
from autoprune.training.loss import dense_loss
from autoprune.training.own_finetune import train_by_own_loop


def train_dense(
    network: nn.Module, run: TrainingRun, on_epoch: Callable[[int, int], None] | None = None
) -> TrainReport:
    """Train a network from scratch, in place, by the task's loss for dense networks, without a teacher.

    Args:
        network: changed in place, and left in training mode.
        run: data, settings, runtime and seed.
        on_epoch: called after every epoch with (epochs done, epochs in total).

    Raises:
        NonFiniteError: if the loss becomes NaN or infinite; names the step.
    """
    per_epoch = run.task.steps_per_epoch(run.settings.batch_size)

    def on_step(step: int, total: int) -> None:
        if on_epoch and step % per_epoch == 0:
            on_epoch(step // per_epoch, total // per_epoch)

    if run.task.finetune is not None:
        return train_by_own_loop(network, run, on_step)
    return train(network, run, dense_loss(run.task), on_step=on_step)
