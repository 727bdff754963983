"""Training, by what it is for: :func:`finetune` a pruned network, :func:`train_dense` the one it came from.

Both are the loop of ``loop`` and differ by the loss. :func:`recalibrate_batchnorm` comes first after a cut.
Combined with ``teacher`` (the dense network's answers) and ``tasks`` (the stream of batches).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.errors import UsageError
from autoprune.tasks.task import DataTask, steps_per_epoch
from autoprune.training.device.device import Runtime, evaluating, seeded
from autoprune.training.distillation import Teacher
from autoprune.training.loop import FinetuneSettings, OnOptimizer, OnStep, Span, TrainReport, stream, train
from autoprune.training.stages import training_only

__all__ = ["FinetuneSettings", "TrainReport", "distillation_loss", "finetune", "recalibrate_batchnorm", "train_dense"]

_LABEL_SMOOTHING = 0.1  # of the dense network only; a teacher's soft answers do the same for a student


def recalibrate_batchnorm(
    network: nn.Module, task: DataTask, images: int, runtime: Runtime, seed: int, batch_size: int = 128
) -> None:
    """Measure batch norm's means and variances anew, in place; weights do not change.

    After a cut the stored statistics belong to channels that are gone, and without this step the score of the
    network says nothing. A network without running statistics is left alone, and so is any if ``images`` is 0.

    Args:
        network: its running statistics are replaced by their average over the batches.
        task: the data; its training stream is used.
        images: how many training images to look at, rounded up to whole batches.
        runtime: where and how it runs.
        seed: of the stream.
        batch_size: images per batch.

    Source: Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning", ECCV 2020,
    arXiv:2007.02491, section 3.3.
    """
    runtime.place(network)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms or images < 1:
        return
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad(), evaluating(network), seeded(seed, runtime.device):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        try:
            for batch, _ in stream(task, -(-images // batch_size), batch_size, runtime, seed):
                runtime.logits(network, batch.images, task.num_classes)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


def finetune(
    network: nn.Module,
    task: DataTask,
    recipe: FinetuneSettings,
    runtime: Runtime,
    seed: int,
    teacher: Teacher | None = None,
    on_step: OnStep | None = None,
    *,
    span: Span | None = None,
    only: Collection[str] | None = None,
    on_optimizer: OnOptimizer | None = None,
) -> TrainReport:
    """Train a pruned network for a short while, in place.

    With ``recipe.distill`` the loss is (1 − w) · cross-entropy + w · T² · KL(teacher ‖ student), both softened
    by T. Give all candidates of a study the same seed: they then see the same images, and the teacher's answers
    are computed once for all of them.

    Args:
        network: changed in place, and left in training mode.
        task: the data.
        recipe: how long and how.
        runtime: where and how it runs.
        seed: of the stream, and of dropout where there is any.
        teacher: required if the recipe distils, else not asked.
        on_step: called after every step.
        span: which steps of the recipe to take, as one of several stages; ``None`` for all.
        only: paths of the modules or parameters that are trained; the others keep their values, though running
            statistics of norms go on. ``None`` or nothing for all.
        on_optimizer: called once with the optimizer, to register hooks on it, as masks do.

    Raises:
        UsageError: if the recipe distils and there is no teacher.
        NonFiniteError: if the loss becomes NaN or infinite; names the step.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531,
    section 2.
    """
    if recipe.distill and teacher is None:
        raise UsageError("the recipe distils, and no teacher was given; give one, or set distill to false")
    student_of = teacher if recipe.distill else None

    def loss(logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        if answers is None:
            return F.cross_entropy(logits, labels)
        return distillation_loss(logits, labels, answers, recipe.temperature, recipe.distill_weight)

    with training_only(network, only):
        return train(network, task, recipe, runtime, seed, loss, student_of, on_step, span, on_optimizer)


def train_dense(
    network: nn.Module,
    task: DataTask,
    recipe: FinetuneSettings,
    runtime: Runtime,
    seed: int,
    on_epoch: Callable[[int, int], None] | None = None,
) -> TrainReport:
    """Train a network from scratch, in place: cross-entropy with label smoothing 0.1, no teacher.

    Args:
        network: changed in place, and left in training mode.
        task: the data.
        recipe: how long and how.
        runtime: where and how it runs.
        seed: of the stream, and of dropout where there is any.
        on_epoch: called after every epoch with (epochs done, epochs in total).

    Raises:
        NonFiniteError: if the loss becomes NaN or infinite; names the step.
    """
    per_epoch = steps_per_epoch(task.sizes["train"], recipe.batch_size)

    def on_step(step: int, total: int) -> None:
        if on_epoch and step % per_epoch == 0:
            on_epoch(step // per_epoch, total // per_epoch)

    return train(network, task, recipe, runtime, seed, dense_loss, None, on_step)


def dense_loss(logits: Tensor, labels: Tensor, answers: Tensor | None = None) -> Tensor:
    """Return the loss of a dense network: cross-entropy with label smoothing 0.1."""
    return F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)


def distillation_loss(logits: Tensor, labels: Tensor, answers: Tensor, temperature: float, weight: float) -> Tensor:
    """Return (1 − w) · CE(logits, labels) + w · T² · KL(softmax(answers / T) ‖ softmax(logits / T)).

    Args:
        logits: of the student, ``(N, classes)``.
        labels: ``(N,)``.
        answers: the teacher's logits, ``(N, classes)``.
        temperature: T > 0.
        weight: w in [0, 1].
    """
    student = F.log_softmax(logits / temperature, dim=1)
    target = F.log_softmax(answers / temperature, dim=1)
    soft = F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2
    return (1 - weight) * F.cross_entropy(logits, labels) + weight * soft
