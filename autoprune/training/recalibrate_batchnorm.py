"""The first step after a cut: measure the running statistics of batch norm again, without training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.tasks.task import DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import stream


def recalibrate_batchnorm(
    network: nn.Module, task: DataTask, images: int, runtime: Runtime, seed: int, batch_size: int = 128
) -> None:
    """Measure the means and variances of batch norm again, in place; weights do not change.

    After a cut the stored statistics still count channels that are gone, and without this step the network's score
    means nothing. A network without running statistics is left alone, and so is any network if ``images`` is 0.

    Args:
        network: its running statistics are replaced by their average over the batches.
        task: the data; its training stream is used.
        images: how many training images to look at, rounded up to whole batches.
        runtime: where and how it runs.
        seed: of the stream.
        batch_size: examples per batch.

    Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020,
    arXiv:2007.02491, section 3.3.
    """
    runtime.place(network)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms or images < 1 or not task.has_batches:
        return
    batches = -(-images // task.batch_size_of(batch_size))
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad(), evaluating(network), seeded(seed, runtime.device), runtime.work():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        try:
            for batch, _ in stream(task, batches, batch_size, runtime, seed):
                runtime.answer(task.forward, network, batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
