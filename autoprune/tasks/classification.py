"""Examples that each belong to one class: what the built-in data, image folders and arrays have in common.

A network is trained by cross-entropy and judged by accuracy.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.metrics import ACCURACY
from autoprune.core.shapes import Shape
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.tasks.distill import softened_divergence
from autoprune.tasks.task import DataTask, NetworkNeeds, Placement, ScoredBatch

_LABEL_SMOOTHING = 0.1  # of the dense network only; a teacher's soft answers do the same for a student


@dataclass(frozen=True)
class LabelledBatch:
    """Images or other examples, float32 and normalised, ``(N, *input_shape)``, and labels, int64, ``(N,)``.

    Both are on the same device.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Classification(DataTask):
    """A task in which each example belongs to one class.

    Attributes:
        num_classes: outputs that a network has.
        class_names: one for each class, in the order of the labels.
        input_shape: of one example: ``(C, H, W)`` of an image, ``(F,)`` of a row, ``(T, F)`` of a sequence.
    """

    metrics = (ACCURACY,)
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: Shape

    @property
    def chance(self) -> float:  # type: ignore[override]
        """Return the accuracy that guessing among the classes gives."""
        return 1 / self.num_classes

    @property
    def needs(self) -> NetworkNeeds:  # type: ignore[override]
        """Return the outputs and the input that a network must have."""
        return NetworkNeeds(self.num_classes, tuple(self.input_shape))

    @abstractmethod
    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of shuffled, augmented training batches."""

    @abstractmethod
    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the examples of a split as they are, always the same in the same order."""

    def inputs(self, network: nn.Module, batch: LabelledBatch) -> Inputs:
        """Return what a network is called with: the images."""
        return Inputs.of(batch.images)

    def forward(self, network: nn.Module, batch: LabelledBatch) -> Tensor:
        """Return a network's logits, ``(N, num_classes)``.

        Raises:
            ModelError: if it returns anything but one row of them for each example.
        """
        output = network(batch.images)
        expected = (len(batch.images), self.num_classes)
        if not isinstance(output, Tensor) or output.shape != expected:
            given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(
                f"the network returned {given} for {len(batch.images)} examples; expected one tensor of shape "
                f"{expected}. Build it with as many outputs as the data has classes, and without auxiliary outputs."
            )
        return output

    def loss(self, output: Any, batch: LabelledBatch) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(output, batch.labels)

    def dense_loss(self, output: Any, batch: LabelledBatch) -> Tensor:
        """Return the cross-entropy with label smoothing 0.1."""
        return F.cross_entropy(output, batch.labels, label_smoothing=_LABEL_SMOOTHING)

    def distill(self, student: Any, teacher: Any, batch: LabelledBatch, temperature: float) -> Tensor:
        """Return the divergence of the softened answers."""
        return softened_divergence(student, teacher, temperature)

    def score_batch(self, output: Any, batch: LabelledBatch) -> ScoredBatch:
        """Return which examples are right, and their cross-entropies."""
        hits = output.argmax(1) == batch.labels
        losses = F.cross_entropy(output, batch.labels, reduction="none")
        is_broken = ~output.isfinite().all(1)  # which the loss hides where it is another class's infinite logit
        return ScoredBatch({ACCURACY.name: hits}, losses.masked_fill(is_broken, math.nan), len(batch))


class LabelledData(Protocol):
    """What a user's own classification task brings, from which :class:`AdoptedClassification` makes a task."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    input_shape: Shape
    sizes: Mapping[str, int]
    replayable: bool
    licence: str
    description: str

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of training batches."""

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the examples of a split."""

    def identity(self) -> str:
        """Return a hash of the data."""


class AdoptedClassification(Classification):
    """A user's own object that yields batches with ``images`` and ``labels``, as a task."""

    def __init__(self, data: LabelledData) -> None:
        self._data = data
        self.name, self.sizes, self.replayable = data.name, data.sizes, data.replayable
        self.num_classes, self.class_names, self.input_shape = data.num_classes, data.class_names, data.input_shape
        self.licence, self.description = data.licence, data.description
        self.notes = tuple(getattr(data, "notes", ()))

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of training batches, as the object does."""
        return self._data.train_stream(batch_size, epoch, seed, runtime)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the examples of a split, as the object does."""
        return self._data.eval_batches(split, batch_size, runtime, limit)

    def identity(self) -> str:
        """Return the object's own hash of its data."""
        return self._data.identity()
