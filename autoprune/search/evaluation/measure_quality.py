"""How good a network is: its score on validation, and on the training images, as a measurement."""

from __future__ import annotations

from torch import nn

from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.scoring import Score, score, score_train


def measured_quality(network: nn.Module, task: DataTask, runtime: Runtime) -> Measurement:
    """Return ``accuracy`` and ``loss`` on validation, ``train_accuracy`` on training images, with standard errors."""
    return quality_and_answers(network, task, runtime)[0]


def quality_and_answers(network: nn.Module, task: DataTask, runtime: Runtime) -> tuple[Measurement, str]:
    """Return :func:`measured_quality`, and which validation images were right as the text of :class:`PairedScores`."""
    found, seen = score(network, task, "val", runtime), score_train(network, task, runtime)
    learnt = Measurement({"train_accuracy": seen.accuracy}, {"train_accuracy": seen.accuracy_stderr})
    correct = "" if found.correct is None else PairedScores.pack(found.correct.numpy()).text
    return quality_measurement(found).merged(learnt), correct


def quality_measurement(found: Score) -> Measurement:
    """Return a score as a measurement of ``accuracy`` and ``loss``, with their standard errors."""
    return Measurement(
        {"accuracy": found.accuracy, "loss": found.loss},
        {"accuracy": found.accuracy_stderr, "loss": found.loss_stderr},
    )
