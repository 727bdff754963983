"""How good a network is: its score on validation, and on the training examples, as a measurement."""

from __future__ import annotations

from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import TRAIN
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.scoring import score, score_train


def measured_quality(network: nn.Module, task: DataTask, runtime: Runtime) -> Measurement:
    """Return the task's metrics and ``loss`` on validation, and the leading metric on training examples.

    The latter is called ``train_accuracy``, say. All have their standard errors, as far as they are known.
    """
    return quality_and_answers(network, task, runtime)[0]


def quality_and_answers(network: nn.Module, task: DataTask, runtime: Runtime) -> tuple[Measurement, str]:
    """Return :func:`measured_quality`, and what was made of each example as the text of :class:`PairedScores`."""
    found = score(network, task, "val", runtime)
    quality = found.measurement.merged(train_quality(network, task, runtime))
    return quality, "" if found.paired is None else found.paired.text


def train_quality(network: nn.Module, task: DataTask, runtime: Runtime) -> Measurement:
    """Return the leading metric on training examples, under the name ``train_…``; empty without any to score."""
    if not task.sizes["train"]:
        return Measurement({})
    name, seen = task.metric.name, score_train(network, task, runtime).measurement
    error = {f"{TRAIN}{name}": seen.stderr[name]} if name in seen.stderr else {}
    return Measurement({f"{TRAIN}{name}": seen[name]}, error)
