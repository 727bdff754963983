"""What data is to the rest of the package: the :class:`DataTask` protocol and the few rules all tasks share.

Implemented by ``in_memory.py`` and ``streaming.py`` (images on disk); a user's function may return anything that
fits. To write one: every stream is a function of its arguments alone, batches arrive normalised and placed on the
runtime, and the test split is read by ``eval_batches("test", …)`` and by nothing else. What is called an image here
and elsewhere may also be a row of features or a sequence; ``input_shape`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from autoprune.core.shapes import Shape
from autoprune.errors import DataError, UnknownNameError

SPLITS = ("train", "val", "test")
SEARCHED = ("train", "val")  # what the trials of a study depend on
_SUBSET_SEED = 20_26


class Placement(Protocol):
    """The place batches go to: a device, and the layout of images there."""

    @property
    def device(self) -> str:
        """Return ``cpu``, ``cuda`` or ``mps``."""

    @property
    def memory_format(self) -> torch.memory_format:
        """Return the layout of images ``(N, C, H, W)``."""

    def format_of(self, images: Tensor) -> torch.memory_format:
        """Return the layout of a batch, which need not be of images."""


@dataclass(frozen=True)
class PlainPlacement:
    """The CPU, with every tensor contiguous."""

    device: str = "cpu"
    memory_format: torch.memory_format = torch.contiguous_format

    def format_of(self, images: Tensor) -> torch.memory_format:
        """Return contiguous, whatever the batch is."""
        return self.memory_format


@dataclass(frozen=True)
class Batch:
    """Images or other examples, float32 and normalised, ``(N, *input_shape)``, and labels, int64, ``(N,)``.

    Both are on the same device.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@runtime_checkable
class DataTask(Protocol):
    """A classification task with training, validation and perhaps test images."""

    @property
    def name(self) -> str:
        """Return the name of the data, for people."""

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return a name for each class, in the order of the labels."""

    @property
    def input_shape(self) -> Shape:
        """Return the shape of one example: ``(C, H, W)`` of an image, ``(F,)`` of a row, ``(T, F)`` of a sequence."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the number of images in ``train``, ``val`` and ``test``; there may be none to test on."""

    @property
    def replayable(self) -> bool:
        """Return whether a teacher's answers to a training stream are worth storing.

        True only if ``train_stream`` is a function of (epoch, seed, batch size) alone.
        """

    @property
    def licence(self) -> str:
        """Return the licence of the images, or an empty string if only the user knows it."""

    @property
    def description(self) -> str:
        """Return one or two sentences: what the images show, where they are from, how they were split."""

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[Batch]:
        """Yield one epoch of shuffled, augmented training batches: :func:`steps_per_epoch` of them."""

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield the images of a split as they are, always the same in the same order.

        Args:
            split: ``train``, ``val`` or ``test``.
            batch_size: images in each batch but the last.
            runtime: where the batches are placed.
            limit: at most this many images, a fixed random subset; ``None`` for all.
        """

    def identity(self) -> str:
        """Return a hash of the training and validation images, their labels and how they are augmented."""


def notes_of(task: DataTask) -> tuple[str, ...]:
    """Return sentences on what may be wrong with the data, for a person to read; a task need not have any."""
    return tuple(getattr(task, "notes", ()))


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Return the batches of one epoch; a last batch of one image is left out, as batch norm cannot use it.

    >>> [steps_per_epoch(n, 64) for n in (128, 129, 130)]
    [2, 2, 3]
    """
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def stream_seed(*parts: int) -> int:
    """Return one seed from several, such that streams of neighbouring parts have nothing in common.

    >>> stream_seed(0, 1) == stream_seed(1, 0)
    False
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def subset(count: int, limit: int) -> list[int]:
    """Return up to ``limit`` of the indices 0 … ``count`` − 1, ascending: a random choice that never changes.

    >>> subset(3, 5)
    [0, 1, 2]
    """
    chosen = np.random.RandomState(_SUBSET_SEED).permutation(count)[:limit]
    return sorted(int(index) for index in chosen)


def check_split(split: str, sizes: Mapping[str, int], task: str) -> None:
    """Raise if a split is unknown or empty.

    Raises:
        UnknownNameError: if it is none of ``train``, ``val`` and ``test``.
        DataError: if the task has no images in it.
    """
    if split not in sizes:
        raise UnknownNameError("split", split, sizes)
    if not sizes[split]:
        raise DataError(f"{task} has no {split} images; add a {split} split to the data, or do without this step")
