"""The batches that criteria look at, from a task: what the network gets, what the loss gets, and the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from autoprune.pruning.importance import Calibration
from autoprune.pruning.input_moments import InputMoments
from autoprune.tasks.task import Batch, DataTask


def calibration_of(
    task: DataTask,
    network: nn.Module,
    batches: Iterable[Batch],
    seed: int,
    moments: Mapping[str, InputMoments] | None = None,
) -> Calibration:
    """Return what criteria may look at: training batches as the task's own ``forward`` and ``loss`` take them.

    Args:
        task: of the batches.
        network: that is to be scored.
        batches: placed where the network is.
        seed: for criteria that draw random numbers.
        moments: layer → second moments of what it reads, where they are known.
    """

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return task.loss(task.forward(net, batch), batch)

    pairs = [(task.inputs(network, batch), batch) for batch in batches]
    return Calibration(pairs, seed, task.needs.input_shape or None, loss_on=loss, moments=moments or {})
