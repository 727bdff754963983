"""Training by the user's own loop, in the place of ours: as many steps, looked at on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

import torch
from torch import nn

from autoprune.errors import DataError, NonFiniteError
from autoprune.models.copying.copy_network import copy_network
from autoprune.tasks.task import DataTask, OnStep
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import Span, TrainingRun, TrainReport
from autoprune.training.settings import total_steps
from autoprune.training.trainable import training_only


def train_by_own_loop(
    network: nn.Module,
    run: TrainingRun,
    on_step: OnStep | None = None,
    span: Span | None = None,
    enforce: Callable[[], object] | None = None,
) -> TrainReport:
    """Train a network in place by the task's own ``finetune``, and leave it on the runtime, in training mode.

    Args:
        network: changed in place.
        run: data, settings, runtime and seed; of the settings only the epochs count.
        on_step: called after every step that the loop reports, with its number among all steps of the run.
        span: which steps of the run to take; ``None`` for all.
        enforce: called after every step that is reported, and at the end.

    Raises:
        EvaluationError, DataError: if the loop fails, or leaves another network than it got.
    """
    started, task = time.perf_counter(), run.task
    if task.finetune is None:
        raise ValueError("the task has no loop of its own; this is a bug in autoprune")
    total = total_steps(task.steps_per_epoch(run.settings.batch_size), run.settings)
    span = span or Span(0, total)
    steps = span.last - span.first

    def report(done: int, _steps: int = 0) -> None:
        run.runtime.rest()
        if enforce is not None:
            enforce()
        if on_step is not None and 0 < done <= steps:
            on_step(span.first + done, total)

    if steps:
        run.runtime.place(network).train()
        seed = run.seed + span.first
        with torch.enable_grad(), seeded(seed, run.runtime.device), training_only(network, None), run.runtime.work():
            task.finetune(network, steps, seed, report)
    if enforce is not None:
        enforce()
    run.runtime.place(network).train()
    network.zero_grad(set_to_none=True)
    return TrainReport(steps, 0, time.perf_counter() - started, math.nan)


def rehearse_loop(network: nn.Module, task: DataTask, runtime: Runtime, seed: int) -> None:
    """Train a copy of a network for one step by the user's own loop, and judge it, before time is spent on either.

    What a task does by itself is left out: :class:`Rehearsal` tries that.

    Raises:
        EvaluationError, DataError: if the loop fails, or leaves another network than it got, or weights that are NaN.
    """
    twin = runtime.place(copy_network(network)).train()
    if task.finetune is not None:
        before = _not_finite(twin)
        with torch.enable_grad(), seeded(seed, runtime.device):
            task.finetune(twin, 1, seed, lambda done, total: None)
        _check_finite(before, _not_finite(twin), task)
    elif task.scores_examples:
        return
    fine = () if task.finetune is not None else (NonFiniteError,)  # what may be said of a network that is not trained
    with suppress(*fine), torch.no_grad(), evaluating(runtime.place(twin)):
        task.evaluate(twin, "val", runtime, None)


def _not_finite(network: nn.Module) -> list[str]:
    """Return the paths of the parameters and buffers that hold a NaN or an infinite number."""
    tensors = chain(network.named_parameters(), network.named_buffers())
    return [path for path, tensor in tensors if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]


def _check_finite(before: list[str], after: list[str], task: DataTask) -> None:
    """Raise if one step of a loop made numbers NaN or infinite, which every later step would inherit.

    Raises:
        DataError: naming the first of them.
    """
    broken = [path for path in after if path not in before]
    if broken:
        raise DataError(
            f"finetune leaves NaN or infinite numbers in the network after one step on {task.name} "
            f"({', '.join(broken[:3])}{' and others' if broken[3:] else ''}); train with a smaller learning rate, or "
            "look at what the loss divides by"
        )
