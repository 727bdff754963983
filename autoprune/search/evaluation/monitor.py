"""Looks at a candidate's loss on the way through its training, which end it there if it is hopeless.

A look leaves no trace: a fine-tune that was looked at ends with the same bits as one that was not. Whether a candidate
goes on is decided by the :class:`EarlyStopper` of ``analysis.early_stopping``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from autoprune.analysis.early_stopping import EarlyStopper, Look, RunToCheck, Stop
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Stopped
from autoprune.errors import NonFiniteError
from autoprune.models.copying.copy_network import copy_network
from autoprune.search.evaluation.stopwatch import LOOK
from autoprune.tasks.task import DataTask, OnStep
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import Span
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import Score, score


class StoppedEarly(Exception):
    """The way out of the fine-tune of a candidate that was stopped, with its outcome; no error."""

    def __init__(self, outcome: Stopped) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass
class Monitor:
    """What watches one candidate on its way.

    Attributes:
        measured: its exact costs and, look by look, its losses with standard errors.
        stopper: decides; ``None``: the candidate goes on whatever is seen.
        task: whose validation examples are looked at.
        runtime: where and how the network runs.
        images: at most this many are looked at, always the same ones; 0: no look is taken.
        recalibrate: a network in the midst of its training → what is looked at in its place, as by
            :func:`recalibrated_copy`.
        watch: times a phase by its name.
        spared: why it would have been stopped, if it goes on as a check.
    """

    measured: Measurement
    stopper: EarlyStopper | None
    task: DataTask
    runtime: Runtime
    images: int
    recalibrate: Callable[[nn.Module], nn.Module]
    watch: Callable[[str], AbstractContextManager[None]]
    spared: str = ""

    def look(self, name: Look, network: nn.Module) -> None:
        """Measure the loss of a network at one of the looks.

        Raises:
            StoppedEarly: if the candidate ends here.
        """
        if not self.images:
            return
        with self.watch(LOOK):
            loss = self._loss(name, self.recalibrate(network) if name == "midway_loss" else network)
        decision = self.stopper.decide(name, loss, self.measured) if self.stopper else None
        if isinstance(decision, Stop):
            raise StoppedEarly(Stopped(decision.reason, self.measured))
        if isinstance(decision, RunToCheck):
            self.spared = self.spared or decision.reason

    def half_way(self, network: nn.Module, span: Span) -> OnStep | None:
        """Return what looks at a network half-way through its steps; ``None`` if there are fewer than two."""
        middle = (span.first + span.last) // 2
        if not self.images or middle == span.first:
            return None

        def look_half_way(done: int, _total: int) -> None:
            if done == middle:
                self.look("midway_loss", network)

        return look_half_way

    def _loss(self, name: Look, network: nn.Module) -> float:
        """Return the loss at a look, and remember it if it is finite."""
        try:
            seen = glance(network, self.task, self.runtime, self.images)
        except NonFiniteError:
            return math.nan
        if math.isfinite(seen.loss):
            error = seen.loss_stderr
            known: dict[str, float] = {} if error is None or not math.isfinite(error) else {name: error}
            self.measured = self.measured.merged(Measurement({name: seen.loss}, known))
        return seen.loss


def recalibrated_copy(network: nn.Module, task: DataTask, images: int, runtime: Runtime, seed: int) -> nn.Module:
    """Return a copy of a network in the midst of its training with batch norm's statistics measured anew.

    While the learning rate is high, running statistics lag behind the weights, and the loss tells little else. The
    network, its modes and the streams of random numbers are afterwards what they were.

    Args:
        network: placed on the runtime.
        task: the data.
        images: training images for the statistics, as in :func:`recalibrate_batchnorm`.
        runtime: where and how it runs.
        seed: of the stream.
    """
    copied = copy_network(network)
    recalibrate_batchnorm(copied, task, images, runtime, seed)  # puts the streams back itself
    return copied


def glance(network: nn.Module, task: DataTask, runtime: Runtime, images: int) -> Score:
    """Score a network on a fixed random subset of validation in the midst of its training, and leave no trace in it.

    Weights, statistics, modes and the streams of random numbers are afterwards what they were.

    Args:
        network: placed on the runtime.
        task: the data.
        runtime: where and how it runs.
        images: at most this many.

    Raises:
        NonFiniteError, DataError, ModelError: as :func:`score`.
    """
    with seeded(0, runtime.device):  # puts the streams back; loading examples by several processes draws from them
        return score(network, task, "val", runtime, limit=images)
