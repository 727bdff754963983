"""A user's own batches: one split as an iterable, or as a function that returns one for an epoch and a seed.

Whatever draws random numbers while batches are made, draws them from streams of its own, so that an epoch is a function
of its seed, however much the network that is trained on it draws itself.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from autoprune.core.user_code import call_with_accepted, in_user_code
from autoprune.errors import AutopruneError, DataError
from autoprune.models.calling.tensors import map_tensors, tensors_in
from autoprune.tasks.task import Batch, Placement, stream_seed, subset

_PLAIN = (str, bytes, int, float, bool, type(None))


@dataclass
class OwnSplit:
    """One split as its owner gave it.

    Attributes:
        given: an iterable of batches, or a function of whichever of (epoch, seed) it accepts that returns one.
        name: ``train``, ``val`` or ``test``.
        task: of whom it is a split, for messages.
        count_of: a batch → its number of examples.

    Raises:
        DataError: if it is neither, or can be walked only once.
    """

    given: Any
    name: str
    task: str
    count_of: Callable[[Batch], int]
    _counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        is_iterable = hasattr(self.given, "__iter__") or hasattr(self.given, "__getitem__")
        if isinstance(self.given, str | bytes) or not (is_iterable or callable(self.given)):
            raise DataError(
                f"{self.task}: {self.name} is {type(self.given).__name__}; expected an iterable of batches, such as a "
                "DataLoader or a list, or a function (epoch, seed) that returns one"
            )
        if isinstance(self.given, Iterator):
            raise DataError(
                f"{self.task}: {self.name} is a {type(self.given).__name__}, which ends after one pass, and a search "
                "makes many; give a list, a DataLoader, or a function (epoch, seed) that returns the batches"
            )

    @property
    def _is_function(self) -> bool:
        return not hasattr(self.given, "__iter__") and callable(self.given)

    @property
    def counts(self) -> list[int]:
        """Return the number of examples in each batch of the first epoch; walked once, unless a loader knows it."""
        if not self._counts:
            self._counts = _known_counts(self.given) or [self.count_of(batch) for batch in self.batches(0, 0)]
        if not sum(self._counts):
            raise DataError(f"{self.task}: {self.name} has no batch with an example in it; give at least one")
        return self._counts

    def batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Yield the batches of one epoch, the same for the same seed.

        Raises:
            DataError: if the user's code fails.
        """
        streams = _Streams(stream_seed(seed, epoch), getattr(self.given, "generator", None))
        try:
            with streams.in_use():
                walk = iter(self._opened(epoch, seed))
        except AutopruneError:
            raise
        except Exception as error:  # the user's own data may raise anything
            raise DataError(f"{self.task}: {self.name} cannot be walked: {in_user_code(error)}") from error
        for position in count():
            try:
                with streams.in_use():
                    batch = next(walk)
            except StopIteration:
                return self._check_walked(position)
            except Exception as error:
                raise DataError(f"{self.task}: {self.name} fails while it is read: {in_user_code(error)}") from error
            yield batch

    def _check_walked(self, batches: int) -> None:
        """Raise if nothing came where there were batches before."""
        if not batches and self._counts:
            raise DataError(
                f"{self.task}: {self.name} gives no batch when it is walked again, and a search walks it many times; "
                "give a list, a DataLoader, or a function (epoch, seed) that returns new batches each time"
            )

    def _opened(self, epoch: int, seed: int) -> Iterable[Batch]:
        if not self._is_function:
            return self.given  # type: ignore[no-any-return]
        made = call_with_accepted(self.given, f"{self.name} of {self.task}", DataError, epoch=epoch, seed=seed)
        if not hasattr(made, "__iter__"):
            raise DataError(f"{self.task}: {self.name} returned {type(made).__name__}; expected an iterable of batches")
        return made  # type: ignore[no-any-return]

    def some(self, limit: int | None) -> Iterator[Batch]:
        """Yield the batches in their order: all, or a fixed random choice with about ``limit`` examples."""
        chosen = None if limit is None or limit >= sum(self.counts) else _chosen(self.counts, limit)
        for index, batch in enumerate(self.batches(0, 0)):
            if chosen is None or index in chosen:
                yield batch
            elif index > max(chosen):
                return


def _chosen(counts: list[int], limit: int) -> set[int]:
    """Return which batches are taken so that ``limit`` examples are reached: as few as it takes, at random."""
    mean = sum(counts) / len(counts)
    return set(subset(len(counts), max(1, round(limit / mean))))


def _known_counts(given: Any) -> list[int]:
    """Return the examples of each batch of a loader of equal batches; empty if it does not say."""
    if not isinstance(given, DataLoader) or given.batch_size is None:
        return []
    try:
        total, batches = len(given.sampler), len(given)  # type: ignore[arg-type]
    except TypeError:  # an iterable data set has no length
        return []
    size = given.batch_size
    return [min(size, total - start * size) for start in range(batches)]


class _Streams:
    """Streams of random numbers of PyTorch, NumPy and Python that data draws from, apart from everybody else's.

    Args:
        seed: of all of them.
        own: a loader's own generator, which is left as it was, too; anything else is passed over.
    """

    def __init__(self, seed: int, own: object = None) -> None:
        self._generator = own if isinstance(own, torch.Generator) else torch.Generator()
        self._own = torch.Generator().manual_seed(seed).get_state()
        self._torch = torch.Generator().manual_seed(seed).get_state()
        self._numpy = np.random.RandomState(seed % 2**32).get_state()
        self._python = random.Random(seed).getstate()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Put the streams in the place of the global ones for a while."""
        others = torch.get_rng_state(), np.random.get_state(), random.getstate()
        torch.set_rng_state(self._torch)
        np.random.set_state(self._numpy)
        random.setstate(self._python)
        before = self._generator.get_state()
        self._generator.set_state(self._own)
        try:
            yield
        finally:
            self._own = self._generator.get_state()
            self._generator.set_state(before)
            self._torch, self._numpy, self._python = torch.get_rng_state(), np.random.get_state(), random.getstate()
            torch.set_rng_state(others[0])
            np.random.set_state(others[1])
            random.setstate(others[2])


def placed(batch: Batch, runtime: Placement) -> Batch:
    """Return a copy of a batch with every tensor on the device, images in the runtime's layout.

    A list's batches are the user's own tensors, and a network may write into what it is given.
    """

    def place(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.to(runtime.device, copy=True)
        return tensor.to(runtime.device, copy=True).contiguous(memory_format=runtime.format_of(tensor))

    return map_tensors(batch, place)


def add_to_hash(digest: Any, batch: Batch) -> None:
    """Add the content of a batch to a hash.

    Raises:
        DataError: if it holds something whose content is not known.
    """
    for tensor in tensors_in(batch):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for value in _others_in(batch):
        if not isinstance(value, _PLAIN):
            raise DataError(
                f"the data holds a {type(value).__name__}, whose content cannot be hashed, so that a change of it "
                "would not be noticed; give identity='…', a text that changes with the data"
            )
        digest.update(repr(value).encode())


def _others_in(value: Any) -> Iterator[Any]:
    """Yield what is no tensor, whatever holds it."""
    if isinstance(value, Tensor):
        return
    if isinstance(value, np.ndarray):
        yield value.tobytes()
    elif isinstance(value, dict) or hasattr(value, "items"):
        for key, each in value.items():
            yield key
            yield from _others_in(each)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _others_in(each)
    elif tensors_in(value) or hasattr(value, "__dataclass_fields__"):
        for each in vars(value).values():
            yield from _others_in(each)
    else:
        yield value


def hash_of(*splits: OwnSplit, batches: int) -> str:
    """Return a hash of the sizes of splits and of the first batches of each, as they are read with one seed."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.name} {split.counts}".encode())
        for position, batch in enumerate(split.batches(0, 0)):
            if position == batches:
                break
            add_to_hash(digest, batch)
    return digest.hexdigest()
