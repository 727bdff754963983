"""How good a network is on a split: :func:`score`, by the task's metrics and its loss, with their standard errors.

The network runs in evaluation mode and is left as it was. A search scores on validation; the test split is read only
by a caller that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.paired_scores import PairedScores
from autoprune.errors import DataError, NonFiniteError
from autoprune.tasks.reached_score import reached
from autoprune.tasks.task import DataTask, Evaluated, ScoredBatch
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.loop import named_by_line

SCORED_TOGETHER = 256  # examples per forward pass
TRAIN_LIMIT = 2000  # training examples that are scored, at most
LOSS = "loss"
OnAnswer = Callable[[Any, Any], None]
"""Called with a network's output and the batch that it is for."""


@dataclass(frozen=True)
class Score:
    """How good a network is on some examples.

    Attributes:
        measurement: the task's metrics and ``loss``, with their standard errors as far as they are known. The loss is
            cross-entropy for classes; where the task has none, it follows from the leading metric, less being better.
        count: how many examples.
        paired: what it made of each of them, by the leading metric; ``None`` where that is not known.
    """

    measurement: Measurement
    count: int
    paired: PairedScores | None = field(default=None, compare=False, repr=False)

    @property
    def loss(self) -> float:
        """Return the mean loss."""
        return self.measurement[LOSS]

    @property
    def loss_stderr(self) -> float | None:
        """Return its standard error, ``None`` where it is not known."""
        return self.measurement.stderr.get(LOSS)


def score(
    network: nn.Module,
    task: DataTask,
    split: str,
    runtime: Runtime,
    batch_size: int = SCORED_TOGETHER,
    limit: int | None = None,
    on_answer: OnAnswer = lambda output, batch: None,
) -> Score:
    """Score a network on a split.

    Args:
        network: placed on the runtime, its values untouched.
        task: the data.
        split: ``train``, ``val`` or ``test``.
        runtime: where and how it runs; the loss is computed in float32 whatever the precision.
        batch_size: examples per forward pass.
        limit: at most this many examples, always the same ones; ``None`` for all.
        on_answer: called with each output and its batch, unless the task evaluates networks by itself.

    Raises:
        NonFiniteError: if an output, a score or the loss is NaN or infinite.
        DataError: if the split is empty, or scores are not what was expected.
        ModelError: if the network fails.
    """
    runtime.place(network)
    # not in inference mode: what a network keeps of it, or assigns to its weights, could not be trained afterwards
    with torch.no_grad(), evaluating(network), named_by_line(f"scoring on {split}"), runtime.work():
        said = task.evaluate(network, split, runtime, limit)
        judged = _judged(network, task, split, runtime, batch_size, limit, on_answer) if said is None else []
    if said is None:
        return _score_of(judged, task, split)
    runtime.place(network)  # a user's own evaluation may leave it elsewhere
    return _score_as_said(said, task)


def _judged(
    network: nn.Module,
    task: DataTask,
    split: str,
    runtime: Runtime,
    batch_size: int,
    limit: int | None,
    on_answer: OnAnswer,
) -> list[ScoredBatch]:
    found = list[ScoredBatch]()
    for batch in task.eval_batches(split, batch_size, runtime, limit):
        output = runtime.answer(task.forward, network, batch)
        on_answer(output, batch)
        found.append(task.score_batch(output, batch))
    if not found:
        raise DataError(f"{task.name} gave no {split} batch; give at least one")
    return found


def _score_as_said(said: Evaluated, task: DataTask) -> Score:
    """Return the score that a user's own evaluation gave; its leading metric stands for the loss."""
    found, lead = said.measurement, task.metric.name
    error = {LOSS: found.stderr[lead]} if lead in found.stderr else {}
    loss = Measurement({LOSS: task.metric.as_loss(found[lead])}, error)
    return Score(found.merged(loss), said.count)


def _score_of(judged: Sequence[ScoredBatch], task: DataTask, split: str) -> Score:
    count = sum(one.count for one in judged)
    values, errors = dict[str, float](), dict[str, float]()
    paired: PairedScores | None = None
    for metric in task.metrics:
        rows = torch.cat([one.scores[metric.name] for one in judged]).cpu()
        found = reached(rows, task.reductions.get(metric.name))
        _check(metric, found.value, split)
        values[metric.name] = found.value
        if found.stderr is not None:
            errors[metric.name] = found.stderr
        paired = paired or found.paired
    lead = task.metric.name
    loss, error = _mean_loss(judged) if task.has_loss else (task.metric.as_loss(values[lead]), errors.get(lead))
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the network's outputs on the {split} examples are NaN or infinite; "
            "train it with a smaller learning rate, or prune less"
        )
    if error is not None:
        errors[LOSS] = error
    return Score(Measurement({**values, LOSS: loss}, errors), count, paired)


def _mean_loss(judged: Sequence[ScoredBatch]) -> tuple[float, float | None]:
    """Return the mean loss and its standard error, from the losses of examples, or of batches where they are means."""
    if judged[0].losses.dim():
        losses = torch.cat([one.losses for one in judged]).cpu().double()  # as not every device has doubles
        spread = float(losses.std(correction=1)) / math.sqrt(len(losses)) if len(losses) > 1 else None
        return float(losses.mean()), spread
    means = torch.stack([one.losses for one in judged]).cpu().double()
    weights = torch.tensor([one.count for one in judged], dtype=torch.float64)
    mean = float((means * weights).sum() / weights.sum())
    if len(judged) < 2:
        return mean, None
    shares = weights / weights.sum()
    variance = float((shares**2 * (means - mean) ** 2).sum()) * len(judged) / (len(judged) - 1)
    return mean, math.sqrt(variance)


def _check(metric: Metric, value: float, split: str) -> None:
    """Raise if a value cannot be what a metric says it is.

    Raises:
        NonFiniteError: if it is NaN or infinite.
        DataError: if a fraction lies outside [0, 1].
    """
    if not math.isfinite(value):
        raise NonFiniteError(
            f"{metric.name} on the {split} examples is {value}; train with a smaller learning rate, prune less, or "
            "look at what the score divides by"
        )
    if fault := metric.fault_of(value):
        raise DataError(f"{metric.name} on the {split} examples is {value:g}, and {fault}")


def score_train(network: nn.Module, task: DataTask, runtime: Runtime) -> Score:
    """Score a network on a fixed random subset of the training examples, as they are, without augmentation.

    There are as many of them as validation examples, but at most 2,000. Beside the validation score, this shows how far
    a network has memorised its training examples.

    Raises:
        NonFiniteError, DataError, ModelError: as :func:`score`.
    """
    return score(network, task, "train", runtime, limit=min(task.sizes["val"], TRAIN_LIMIT))
