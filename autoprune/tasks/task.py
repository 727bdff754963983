"""What data and quality are to the rest of the package: :class:`DataTask`, and the few rules all tasks share.

Implemented by ``classification.py`` with ``in_memory.py`` and ``streaming.py``, and by ``own_task.py`` from a user's
callables. Every stream is a function of its arguments alone, batches arrive placed on the runtime, and the test split
is read by ``eval_batches("test", …)`` and by nothing else. What a batch is, only its task knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.arrays import Ints
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.errors import DataError, UnknownNameError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors, tensors_in

SPLITS = ("train", "val", "test")
SEARCHED = ("train", "val")  # what the trials of a study depend on
_SUBSET_SEED = 20_26
_KEPT_BYTES = 64_000_000  # of a batch that stays in memory

Batch: TypeAlias = Any
"""What a task yields, of any structure: tensors in tuples, dictionaries, dataclasses, on the runtime's device."""

OnStep: TypeAlias = Callable[[int, int], None]
"""Called after every training step with (steps done, steps in total)."""


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
class ScoredBatch:
    """What a network's output for one batch is worth.

    Attributes:
        scores: metric → one row for each example, ``(N,)`` or ``(N, k)``; booleans say which are right.
        losses: of each example, ``(N,)``, or their mean, a scalar.
        count: N.
    """

    scores: Mapping[str, Tensor]
    losses: Tensor
    count: int


@dataclass(frozen=True)
class Evaluated:
    """What a user's own function says of a network on a whole split.

    Attributes:
        measurement: the metrics, with standard errors as far as they are known.
        count: examples; 0 if that is not known.
    """

    measurement: Measurement
    count: int = 0


@dataclass(frozen=True)
class NetworkNeeds:
    """What the data asks of a network that is built for it.

    Attributes:
        num_classes: outputs; ``None`` if the network knows.
        input_shape: of one example, without the batch; empty if an input is no single tensor.
        offers: further numbers that a function which builds the network is given if it accepts them, as ``num_users``.
    """

    num_classes: int | None = None
    input_shape: tuple[int, ...] = field(default=())
    offers: Mapping[str, int] = field(default_factory=dict)


class DataTask(ABC):
    """What a network is to learn, from which data, and how it is judged.

    Attributes:
        name: of the data, for people.
        metrics: of quality; the first leads.
        sizes: the number of examples in ``train``, ``val`` and ``test``; there may be none to test on.
        replayable: whether a teacher's answers to a training stream are worth storing: only if ``train_stream`` is a
            function of (epoch, seed, batch size) alone, and answers are one tensor with a row for each example.
        cuts_batches: whether batches have a size of their own, whatever size is asked for.
        has_batches: whether there is any data; a user's own loop may keep its data to itself.
        has_loss: whether there is a loss to differentiate.
        scores_examples: whether ``score_batch`` scores single examples; ``evaluate`` judges whole splits otherwise.
        licence: of the data; empty if only the user knows it.
        description: one or two sentences: what the data shows, where it is from, how it was split.
        notes: sentences on what may be wrong with the data, for a person to read.
        chance: value of the leading metric that guessing gives; ``None`` if that is not known.
        needs: what a network that is built for it must be like.
        reductions: metric → what makes its value of all rows, ``(N,)`` or ``(N, k)``; the mean for the others.
        finetune: the user's own training, called with (network, steps, seed, on_step); ``None`` for ours.
    """

    name: str
    metrics: tuple[Metric, ...]
    sizes: Mapping[str, int]
    replayable: bool = False
    cuts_batches: bool = False
    has_batches: bool = True
    has_loss: bool = True
    scores_examples: bool = True
    licence: str = ""
    description: str = ""
    notes: tuple[str, ...] = ()
    chance: float | None = None
    needs: NetworkNeeds = NetworkNeeds()
    reductions: Mapping[str, Callable[[Tensor], float]] = MappingProxyType({})
    finetune: Callable[[nn.Module, int, int, OnStep], object] | None = None
    _kept_batch: Batch = None

    @property
    def metric(self) -> Metric:
        """Return the metric that leads."""
        return self.metrics[0]

    @abstractmethod
    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[Batch]:
        """Yield one epoch of shuffled, augmented training batches: :meth:`steps_per_epoch` of them."""

    @abstractmethod
    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield the examples of a split as they are, always the same in the same order.

        Args:
            split: ``train``, ``val`` or ``test``.
            batch_size: examples in each batch but the last.
            runtime: where the batches are placed.
            limit: at most this many examples, a fixed random subset; ``None`` for all. A task that cuts its own batches
                gives whole ones.
        """

    @abstractmethod
    def identity(self) -> str:
        """Return a hash of the training and validation examples and of how they are augmented."""

    @abstractmethod
    def inputs(self, network: nn.Module, batch: Batch) -> Inputs:
        """Return what a network is called with for a batch."""

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the loss of a network's output, a scalar that can be differentiated."""

    @abstractmethod
    def score_batch(self, output: Any, batch: Batch) -> ScoredBatch:
        """Return what a network's output for a batch is worth."""

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        """Return a network's output for a batch."""
        return self.inputs(network, batch).run(network)

    def dense_loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the loss that a dense network is trained with from scratch."""
        return self.loss(output, batch)

    def distill(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Tensor | None:
        """Return how far a student's output is from the teacher's, a scalar; ``None`` if that cannot be said."""
        return None

    def evaluate(self, network: nn.Module, split: str, runtime: Placement, limit: int | None) -> Evaluated | None:
        """Return what the user's own evaluation says of a split; ``None`` where batches are judged one by one."""
        return None

    def example(self, network: nn.Module) -> Inputs:
        """Return what a network is called with for one batch of validation, on the CPU; one example if it can be."""
        batch = map_tensors(self._first_batch(), Tensor.clone)  # a network may write into what it is given
        return self.inputs(network, batch).first(1).on("cpu")

    def _first_batch(self) -> Batch:
        """Return the first batch of validation, read once in a process unless it is large; it is asked for often."""
        if self._kept_batch is not None:
            return self._kept_batch
        found = next(iter(self.eval_batches("val", 1, PlainPlacement())))
        if sum(tensor.nbytes for tensor in tensors_in(found)) <= _KEPT_BYTES:
            self._kept_batch = found
        return found

    def count(self, batch: Batch) -> int:
        """Return the number of examples in a batch."""
        return len(batch)

    def batch_size_of(self, wanted: int) -> int:
        """Return how many examples a training batch has when so many are asked for."""
        return wanted

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the training batches of one epoch."""
        return steps_per_epoch(self.sizes["train"], batch_size)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the batches of one epoch; a last batch of one example is left out, as batch norm cannot use it.

    >>> [steps_per_epoch(n, 64) for n in (128, 129, 130)]
    [2, 2, 3]
    """
    full, rest = divmod(num_examples, batch_size)
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


def resamples(count: int, times: int) -> Iterator[Ints]:
    """Yield indices of examples drawn with replacement, ``(count,)``, the same at every call.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 6.
    """
    drawn = np.random.RandomState(_SUBSET_SEED)
    for _ in range(times):
        yield drawn.randint(0, count, count)


def check_split(split: str, sizes: Mapping[str, int], task: str) -> None:
    """Raise if a split is unknown or empty.

    Raises:
        UnknownNameError: if it is none of ``train``, ``val`` and ``test``.
        DataError: if the task has no examples in it.
    """
    if split not in sizes:
        raise UnknownNameError("split", split, sizes)
    if not sizes[split]:
        raise DataError(f"{task} has no {split} examples; add a {split} split to the data, or do without this step")
