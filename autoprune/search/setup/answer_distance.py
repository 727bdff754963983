"""How far a network's answers are from the dense network's, over validation examples.

For logits it is their Kullback–Leibler divergence; for other answers what the task's ``distill`` says. Unlike a rise of
the label loss it is never negative, and small cuts show on few examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoprune.errors import NonFiniteError
from autoprune.models.calling.tensors import tensors_in
from autoprune.search.setup.context import StudyContext
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.scoring import SCORED_TOGETHER

KEPT_BYTES = 256 << 20  # of the dense network's answers; beyond that they are computed anew for each network
_TEMPERATURE = 1.0


@dataclass(eq=False)
class AnswerDistance:
    """The distance from one dense network on a fixed set of validation examples.

    Attributes:
        context: of the study.
        dense: the network that the others are compared with.
        images: examples that are looked at.
    """

    context: StudyContext
    dense: nn.Module
    images: int
    _kept: dict[int, Any] = field(default_factory=dict, init=False)  # the dense network's answers, by batch
    _kept_bytes: int = field(default=0, init=False)

    def can_be_told(self) -> bool:
        """Return whether the task says how far two answers are from each other."""
        task = self.context.task
        if not task.has_batches:
            return False
        batch = next(iter(task.eval_batches("val", 2, self.context.device, limit=2)))
        output = self._answer(self.dense, batch)
        return task.distill(output, output, batch, _TEMPERATURE) is not None

    def __call__(self, network: nn.Module) -> float:
        """Return the mean distance over all examples, ≥ 0 for logits.

        Args:
            network: placed on the study's device.

        Raises:
            NonFiniteError: if it is NaN or infinite.
        """
        found = self.of_answers()
        with self.context.device.work():
            for batch in self._batches():
                found.add(self._answer(network, batch), batch)
        return found.mean

    def of_answers(self) -> MeanDistance:
        """Return the distance of a network whose answers come from elsewhere, as from its scoring."""
        return MeanDistance(self.context.task, self._dense_answer)

    def _dense_answer(self, place: int, batch: Batch) -> Any:
        """Return the dense network's answer to one of the batches; it is kept if memory allows."""
        if place in self._kept:
            return self._kept[place]
        answer = self._answer(self.dense, batch)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(answer))
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[place] = answer
            self._kept_bytes += size
        return answer

    def _batches(self) -> Iterator[Batch]:
        return self.context.task.eval_batches("val", SCORED_TOGETHER, self.context.device, limit=self.images)

    @torch.no_grad()
    def _answer(self, network: nn.Module, batch: Batch) -> Any:
        with evaluating(network):
            return self.context.device.answer(self.context.task.forward, network, batch)


@dataclass(eq=False)
class MeanDistance:
    """The mean distance of answers from the dense network's, as they come, batch by batch.

    Attributes:
        task: says how far two answers to a batch are from each other.
        wanted: the dense network's answer to a batch, by its place among them.
        batches: that were added.
    """

    task: DataTask
    wanted: Callable[[int, Batch], Any]
    batches: int = 0
    _sum: float = 0.0
    _examples: int = 0

    def add(self, answer: Any, batch: Batch) -> None:
        """Add a network's answer to the next batch.

        Raises:
            NonFiniteError: if the distance is NaN or infinite.
        """
        found = self.task.distill(answer, self.wanted(self.batches, batch), batch, _TEMPERATURE)
        if found is None or not bool(torch.isfinite(found)):
            raise NonFiniteError("the distance of its answers from the dense network's is NaN or infinite")
        count = self.task.count(batch)
        self._sum += float(found) * count
        self._examples += count
        self.batches += 1

    @property
    def mean(self) -> float:
        """Return the mean over all examples so far; 0 before the first."""
        return self._sum / max(1, self._examples)
