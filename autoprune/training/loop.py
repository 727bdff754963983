"""The training loop: SGD with Nesterov momentum, or AdamW, under the schedule of ``learning_rate.py``.

The loss is an argument; ``finetune.py``, ``train_dense.py`` and ``regularisation.py`` each pass theirs. The loop waits
for the device only now and then, so that it costs no more than one written by hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.user_code import in_user_code
from autoprune.errors import AutopruneError, DataError, ModelError, NonFiniteError, UnknownNameError
from autoprune.tasks.task import Batch, DataTask, OnStep, stream_seed
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.distillation import Teacher
from autoprune.training.learning_rate import learning_rate
from autoprune.training.loss import LossFunction
from autoprune.training.settings import OPTIMIZERS, FinetuneSettings, total_steps

OnOptimizer = Callable[[torch.optim.Optimizer], object]
"""Called once with the optimizer before the first step, to register hooks on it."""

_MOMENTUM = 0.9
_CHECK_EVERY = 20  # steps between two looks at the loss, because looking waits for the device


@dataclass(frozen=True)
class TrainingRun:
    """What every training needs besides the network and the loss.

    Attributes:
        task: the data.
        settings: how long and how.
        runtime: where and how the network runs.
        seed: of the stream of batches, and of dropout where there is any.
    """

    task: DataTask
    settings: FinetuneSettings
    runtime: Runtime
    seed: int


@dataclass(frozen=True)
class Span:
    """Which steps of a training are taken: ``first`` … ``last`` − 1 of all.

    In this way several networks can share one stream of examples and one curve of the learning rate, each going on
    where the one before stopped.
    """

    first: int
    last: int


@dataclass(frozen=True)
class TrainReport:
    """What a training did; ``final_loss`` is the mean over its last steps, NaN if there were none."""

    steps: int
    examples: int
    seconds: float
    final_loss: float


def train(
    network: nn.Module,
    run: TrainingRun,
    loss_of: LossFunction,
    teacher: Teacher | None = None,
    *,
    on_step: OnStep | None = None,
    span: Span | None = None,
    on_optimizer: OnOptimizer | None = None,
) -> TrainReport:
    """Train a network in place; the settings alone decide how many steps there are.

    Args:
        network: changed in place, and left in training mode.
        run: data, settings, runtime and seed.
        loss_of: (output, batch, the teacher's output or ``None``) → the loss, a scalar.
        teacher: answers every batch; ``None`` for no answers.
        on_step: called after every step with its number among all steps of the run.
        span: which steps of the run to take; ``None`` for all.
        on_optimizer: called once, before the first step.

    Raises:
        UnknownNameError: if there is no such optimizer.
        NonFiniteError: if the loss becomes NaN or infinite; names the step.
        ModelError: if nothing in the network can be trained, or it fails.
        DataError: if the task gives no batch, or one cannot be read.
    """
    started = time.perf_counter()
    run.runtime.place(network).train()
    optimizer = optimizer_of(network, run.settings, run.runtime)
    if on_optimizer:
        on_optimizer(optimizer)
    total = total_steps(run.task.steps_per_epoch(run.settings.batch_size), run.settings)
    span = span or Span(0, total)
    examples, loss = _take_steps(network, run, loss_of, teacher, optimizer, on_step, span, total)
    return TrainReport(span.last - span.first, examples, time.perf_counter() - started, loss)


def _take_steps(
    network: nn.Module,
    run: TrainingRun,
    loss_of: LossFunction,
    teacher: Teacher | None,
    optimizer: torch.optim.Optimizer,
    on_step: OnStep | None,
    span: Span,
    total: int,
) -> tuple[int, float]:
    """Return how many examples were seen, and the mean loss of the last steps."""
    task, settings, runtime, seed = run.task, run.settings, run.runtime, run.seed
    examples, watch = 0, _LossWatch(span, total)
    batches = stream(task, total, settings.batch_size, runtime, seed, teacher, span)
    own_stream = stream_seed(seed, span.first) if span.first else stream_seed(seed)
    with seeded(own_stream, runtime.device), runtime.work():
        for step, (batch, answers) in enumerate(batches, span.first):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, total, settings.lr)
            with named_by_line(f"training at step {step + 1} of {total}"):
                loss = loss_of(runtime.answer(task.forward, network, batch), batch, answers)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            watch.add(loss, step)
            examples += task.count(batch)
            if on_step:
                on_step(step + 1, total)
    return examples, watch.mean


def stream(
    task: DataTask,
    total: int,
    batch_size: int,
    runtime: Runtime,
    seed: int,
    teacher: Teacher | None = None,
    span: Span | None = None,
) -> Iterator[tuple[Batch, Any]]:
    """Yield ``total`` training batches over as many epochs as it takes, each with the teacher's answers, if any.

    With a ``span`` only those of its steps are yielded: whole epochs before it are skipped, and of its first epoch
    the batches before it are drawn and dropped.

    Raises:
        DataError: if the task has no batch to give.
    """
    span = span or Span(0, total)
    per_epoch = max(1, task.steps_per_epoch(batch_size))
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
            raise DataError(f"{task.name} gave no training batch of {batch_size} examples; use smaller batches")
        epoch += 1


def optimizer_of(network: nn.Module, settings: FinetuneSettings, runtime: Runtime) -> torch.optim.Optimizer:
    """Return the optimizer; biases and norms, which have one dimension, are not decayed.

    Raises:
        UnknownNameError: if there is no such optimizer.
        ModelError: if nothing in the network can be trained.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101 (AdamW).
    """
    if settings.optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", settings.optimizer, OPTIMIZERS)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise ModelError("no parameter of the network can be trained; set requires_grad on those that should be")
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    # one kernel for all tensors instead of several for each; it takes real numbers only
    fused = runtime.device != "mps" and all(parameter.is_floating_point() for parameter in trained)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=_MOMENTUM, nesterov=True, fused=fused)


@contextmanager
def named_by_line(doing: str) -> Iterator[None]:
    """Turn what the user's network raises meanwhile into an error that names the line of its code.

    Raises:
        ModelError: in the place of an exception that is not ours.
    """
    try:
        yield
    except AutopruneError:
        raise
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(f"the network fails in {doing}: {in_user_code(error)}; correct it") from error


class _LossWatch:
    """The losses of the last steps, and their mean; a check that every loss is finite.

    They stay on the device and are read only now and then, because reading waits for the device.
    """

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
