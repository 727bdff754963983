"""How far a network's answers are from the dense network's, over validation examples.

For logits it is their Kullback–Leibler divergence; for other answers what the task's ``distill`` says. Unlike a rise of
the label loss it is never negative, and small cuts show on few examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoprune.errors import NonFiniteError
from autoprune.models.calling.tensors import tensors_in
from autoprune.search.setup.context import StudyContext
from autoprune.tasks.task import Batch
from autoprune.training.device.evaluation_mode import evaluating

KEPT_BYTES = 256 << 20  # of the dense network's answers; beyond that they are computed anew for each network
_BATCH = 256
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

    def __post_init__(self) -> None:
        self._kept: list[Any] | None = None

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
        task, total, count = self.context.task, 0.0, 0
        with self.context.device.work():
            for batch, wanted in self._pairs():
                found = task.distill(self._answer(network, batch), wanted, batch, _TEMPERATURE)
                if found is None or not bool(torch.isfinite(found)):
                    raise NonFiniteError("the distance of its answers from the dense network's is NaN or infinite")
                total += float(found) * task.count(batch)
                count += task.count(batch)
        return total / max(1, count)

    def _pairs(self) -> Iterator[tuple[Batch, Any]]:
        """Yield each batch with the dense network's answers to it, which are kept as far as memory allows."""
        known, size = self._kept, 0
        made: list[Any] = []
        for place, batch in enumerate(self._batches()):
            wanted = known[place] if known is not None else self._answer(self.dense, batch)
            if known is None:
                size += sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(wanted))
                made = [*made, wanted] if size <= KEPT_BYTES else []
            yield batch, wanted
        if known is None and size <= KEPT_BYTES:
            self._kept = made

    def _batches(self) -> Iterator[Batch]:
        return self.context.task.eval_batches("val", _BATCH, self.context.device, limit=self.images)

    @torch.no_grad()
    def _answer(self, network: nn.Module, batch: Batch) -> Any:
        with evaluating(network):
            return self.context.device.answer(self.context.task.forward, network, batch)
