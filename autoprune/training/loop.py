"""The training loop: SGD with Nesterov momentum, or AdamW, under a short warm-up and a cosine.

What is trained for is a function handed in; ``finetune`` hands in its two. The loop waits for the device only
now and then, so that it costs no more than one written by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn

from autoprune.errors import DataError, ModelError, NonFiniteError, UnknownNameError
from autoprune.tasks.task import Batch, DataTask, steps_per_epoch, stream_seed
from autoprune.training.device.device import Runtime, seeded
from autoprune.training.distillation import Teacher

OnStep = Callable[[int, int], None]
"""Called after every step with (steps done, steps in total)."""

OnOptimizer = Callable[[torch.optim.Optimizer], object]
"""Called once with the optimizer before the first step, to register hooks on it."""

LossOf = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(logits, labels, the teacher's answers or ``None``) → the loss."""

Optimizer = Literal["sgd", "adamw"]
OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "adamw")

_MOMENTUM = 0.9
_CHECK_EVERY = 20  # steps between two looks at the loss, because looking waits for the device


@dataclass(frozen=True)
class FinetuneSettings:
    """Say how a network is trained.

    Attributes:
        epochs: passes over the training images; may be a fraction. 0 trains nothing.
        batch_size: images per step.
        lr: peak learning rate.
        weight_decay: L2 penalty, for AdamW the decay of a step per learning rate; not applied to biases and
            normalisation.
        distill: whether a teacher takes part; only :func:`finetune` asks.
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


@dataclass(frozen=True)
class Span:
    """Say which steps of a recipe are taken: ``first`` … ``last`` − 1 of all.

    Several networks may so share one stream of images and one curve of the learning rate, each going on where the
    last one stopped.
    """

    first: int
    last: int


@dataclass(frozen=True)
class TrainReport:
    """Tell what a training did; ``final_loss`` is the mean over its last steps, NaN if there were none."""

    steps: int
    images: int
    seconds: float
    final_loss: float


def train(
    network: nn.Module,
    task: DataTask,
    recipe: FinetuneSettings,
    runtime: Runtime,
    seed: int,
    loss_of: LossOf,
    teacher: Teacher | None,
    on_step: OnStep | None,
    span: Span | None = None,
    on_optimizer: OnOptimizer | None = None,
) -> TrainReport:
    """Train a network in place; the steps are as many as the recipe says, whatever the loss.

    Args:
        network: changed in place, and left in training mode.
        task: the data.
        recipe: how long and how.
        runtime: where and how it runs.
        seed: of the stream, and of dropout where there is any.
        loss_of: (logits, labels, the teacher's answers or ``None``) → the loss, a number.
        teacher: answers every batch, or ``None``.
        on_step: called after every step with its number among all steps of the recipe.
        span: which steps of the recipe to take; ``None`` for all.
        on_optimizer: called once, before the first step.

    Raises:
        UnknownNameError: if there is no such optimizer.
        NonFiniteError: if the loss becomes NaN or infinite; names the step.
        ModelError: if nothing in the network can be trained, or its outputs are not one row of logits an image.
        DataError: if the task gives no batch, or an image cannot be read.
    """
    started, images = time.perf_counter(), 0
    runtime.place(network).train()
    optimizer = _optimizer(network, recipe, runtime)
    if on_optimizer:
        on_optimizer(optimizer)
    total = total_steps(task.sizes["train"], recipe)
    span = span or Span(0, total)
    watch = _LossWatch(span, total)
    batches = stream(task, total, recipe.batch_size, runtime, seed, teacher, span)
    with seeded(stream_seed(seed, span.first) if span.first else stream_seed(seed), runtime.device):
        for step, (batch, answers) in enumerate(batches, span.first):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, recipe.lr)
            loss = loss_of(runtime.logits(network, batch.images, task.num_classes), batch.labels, answers)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            watch.add(loss, step)
            images += len(batch)
            if on_step:
                on_step(step + 1, total)
    return TrainReport(span.last - span.first, images, time.perf_counter() - started, watch.mean)


def stream(
    task: DataTask,
    total: int,
    batch_size: int,
    runtime: Runtime,
    seed: int,
    teacher: Teacher | None = None,
    span: Span | None = None,
) -> Iterator[tuple[Batch, Tensor | None]]:
    """Yield ``total`` training batches over as many epochs as it takes, each with the teacher's answers, if any.

    With a ``span`` only those of its steps are yielded: whole epochs before it are skipped, and of its first epoch
    the batches before it are drawn and dropped.

    Raises:
        DataError: if the task has no batch to give.
    """
    span = span or Span(0, total)
    per_epoch = max(1, steps_per_epoch(task.sizes["train"], batch_size))
    epoch = span.first // per_epoch
    done = epoch * per_epoch
    while done < span.last:
        targets = teacher.targets(epoch, seed, batch_size, total - done) if teacher else None
        batches = task.train_stream(batch_size, epoch, seed, runtime)
        before = done
        for position, batch in enumerate(islice(batches, span.last - done)):
            if done >= span.first:
                yield batch, targets(position, batch) if targets else None
            done += 1
        if done == before:
            raise DataError(f"{task.name} gave no training batch of {batch_size} images; use smaller batches")
        epoch += 1


def learning_rate(step: int, total: int, peak: float) -> float:
    """Return the rate of step 0 … ``total`` − 1: a linear warm-up over a tenth, then a cosine towards 0.

    >>> [round(learning_rate(step, 20, 1.0), 2) for step in (0, 1, 2, 11, 19)]
    [0.33, 0.67, 1.0, 0.5, 0.01]
    """
    warm = min(total // 10, 500)
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def total_steps(num_images: int, recipe: FinetuneSettings) -> int:
    """Return how many steps a recipe takes: epochs × batches of an epoch, rounded, at least one unless epochs is 0."""
    if recipe.epochs <= 0:
        return 0
    return max(1, round(recipe.epochs * steps_per_epoch(num_images, recipe.batch_size)))


def _optimizer(network: nn.Module, recipe: FinetuneSettings, runtime: Runtime) -> torch.optim.Optimizer:
    """Return the recipe's optimizer; biases and norms, which have one dimension, are not decayed.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101 (AdamW).
    """
    if recipe.optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", recipe.optimizer, OPTIMIZERS)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("no parameter of the network can be trained; set requires_grad on those that should be")
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = runtime.device != "mps"  # one kernel for all tensors instead of several for each
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=_MOMENTUM, nesterov=True, fused=fused)


class _LossWatch:
    """Keep the losses on the device, look at them now and then, and know the mean of the last ones."""

    def __init__(self, span: Span, total: int) -> None:
        self.mean = math.nan
        self._span, self._total, self._pending, self._last = span, total, list[Tensor](), list[float]()

    def add(self, loss: Tensor, step: int) -> None:
        self._pending.append(loss.detach())
        if len(self._pending) == _CHECK_EVERY or step + 1 == self._span.last:
            values = torch.stack(self._pending).tolist()
            first = step + 1 - len(values)
            for offset, value in enumerate(values):
                if not math.isfinite(value):
                    raise NonFiniteError(
                        f"the loss is {value} at step {first + offset + 1} of {self._total}; "
                        "train with a smaller learning rate, or prune less"
                    )
            self._last = (self._last + values)[-_CHECK_EVERY:]
            self.mean = sum(self._last) / len(self._last)
            self._pending.clear()
