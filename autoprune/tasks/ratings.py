"""From a file of ratings to a task: :class:`RatingTask`; a network gets two rows of ids and predicts the ratings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.metrics import Metric
from autoprune.errors import DataError, ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.tasks.read_ratings import Ratings, read_ratings
from autoprune.tasks.task import (
    SEARCHED,
    SPLITS,
    DataTask,
    NetworkNeeds,
    Placement,
    ScoredBatch,
    check_split,
    stream_seed,
    subset,
)

RatedBatch = tuple[Tensor, Tensor, Tensor]
"""Users and items, int64, and ratings, float32, each ``(N,)``."""


class RatingTask(DataTask):
    """What users gave items: a network is called with (users, items), ids of int64, and gives a rating of each pair.

    Eight tenths of the ratings train, a tenth validates, a tenth tests, by a hash of user and item, so that more
    ratings change no split. Ids count from 1; 0 stands for whoever is in no training rating. The function that builds
    the network is given ``num_users`` and ``num_items``, the sizes of its two tables of embeddings.

    Args:
        path: of the file, as ``read_ratings`` reads it.

    Raises:
        DataError: if it cannot be read, or is too small to be split, or all ratings are equal.
    """

    metrics = (Metric("rmse"),)
    replayable = False
    reductions = MappingProxyType({"rmse": lambda squares: math.sqrt(float(squares.mean()))})

    def __init__(self, path: str | Path) -> None:
        file = Path(path).expanduser()
        self.name = file.stem
        read = read_ratings(file)
        splits = [split_of(user, item) for user, item in zip(read.users, read.items, strict=True)]
        rows = {split: [row for row, each in enumerate(splits) if each == split] for split in SPLITS}
        self.sizes = {split: len(part) for split, part in rows.items()}
        self._check(read, file)
        users, items = (_ids_of(texts, rows["train"]) for texts in (read.users, read.items))
        self.needs = NetworkNeeds(offers={"num_users": 1 + len(users), "num_items": 1 + len(items)})
        self._stored: dict[str, RatedBatch] = {split: _rows(read, rows[split], users, items) for split in SPLITS}
        train, val = self._stored["train"][2], self._stored["val"][2]
        self.chance = float((val - train.mean()).square().mean().sqrt())
        self.description = f"{len(splits)} ratings of {len(items)} items by {len(users)} users, in {file}."

    def _check(self, read: Ratings, file: Path) -> None:
        if self.sizes["train"] < 2 or not self.sizes["val"]:
            raise DataError(
                f"{str(file)!r} holds {len(read.ratings)} ratings, too few to train and validate on; add some"
            )
        if len(set(read.ratings)) == 1:
            raise DataError(f"every rating in {str(file)!r} is {read.ratings[0]:g}, so that there is nothing to learn")

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[RatedBatch]:
        """Yield one epoch of training batches, the same for the same arguments on every device."""
        generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
        for index in torch.split(torch.randperm(self.sizes["train"], generator=generator), batch_size):
            if len(index) == 1 < batch_size:
                return
            yield self._batch("train", index, runtime)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[RatedBatch]:
        """Yield the ratings of a split; ``limit`` takes a fixed random subset.

        Raises:
            UnknownNameError: if there is no such split.
            DataError: if it is empty.
        """
        check_split(split, self.sizes, self.name)
        count = self.sizes[split]
        chosen = torch.arange(count) if limit is None else torch.tensor(subset(count, limit))
        for index in torch.split(chosen, batch_size):
            yield self._batch(split, index, runtime)

    def _batch(self, split: str, index: Tensor, runtime: Placement) -> RatedBatch:
        users, items, ratings = (column[index].to(runtime.device) for column in self._stored[split])
        return users, items, ratings

    def identity(self) -> str:
        """Return a hash of the training and validation ratings."""
        digest = hashlib.sha256()
        for column in (column for split in SEARCHED for column in self._stored[split]):
            digest.update(f"{column.dtype} {len(column)}".encode())
            digest.update(column.numpy().data)
        return digest.hexdigest()

    def count(self, batch: RatedBatch) -> int:
        """Return the number of ratings in a batch."""
        return len(batch[2])

    def inputs(self, network: nn.Module, batch: RatedBatch) -> Inputs:
        """Return what a network is called with: users and items."""
        return Inputs(batch[:2], {})

    def loss(self, output: Any, batch: RatedBatch) -> Tensor:
        """Return the mean squared error.

        Raises:
            ModelError: if the network gave anything but one number for each pair.
        """
        return F.mse_loss(_predicted(output, batch), batch[2])

    def distill(self, student: Any, teacher: Any, batch: RatedBatch, temperature: float) -> Tensor:
        """Return the mean squared difference of the predictions."""
        return F.mse_loss(_predicted(student, batch), _predicted(teacher, batch))

    def score_batch(self, output: Any, batch: RatedBatch) -> ScoredBatch:
        """Return the squared errors of a network's predictions.

        Raises:
            ModelError: if the network gave anything but one number for each pair.
        """
        squares = (_predicted(output, batch) - batch[2]).square()
        return ScoredBatch({"rmse": squares}, squares, len(squares))


def split_of(user: str, item: str) -> str:
    """Return the split of a pair, for ever the same.

    >>> {split_of(str(user), "film") for user in range(50)} == set(SPLITS)
    True
    """
    tenth = int(hashlib.sha256(f"{user}\t{item}".encode()).hexdigest(), 16) % 10
    return {0: "val", 1: "test"}.get(tenth, "train")


def _ids_of(texts: tuple[str, ...], rows: list[int]) -> dict[str, int]:
    """Return the ids of what is in these rows, from 1 in their order."""
    return {text: 1 + place for place, text in enumerate(dict.fromkeys(texts[row] for row in rows))}


def _rows(read: Ratings, rows: list[int], users: dict[str, int], items: dict[str, int]) -> RatedBatch:
    return (
        torch.tensor([users.get(read.users[row], 0) for row in rows], dtype=torch.int64),
        torch.tensor([items.get(read.items[row], 0) for row in rows], dtype=torch.int64),
        torch.tensor([read.ratings[row] for row in rows], dtype=torch.float32),
    )


def _predicted(output: Any, batch: RatedBatch) -> Tensor:
    """Return predictions as ``(N,)``, float32."""
    count = len(batch[2])
    if isinstance(output, Tensor) and output.shape in ((count,), (count, 1)) and output.is_floating_point():
        return output.reshape(count).float()
    given = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise ModelError(
        f"the network returned {given} for {count} pairs of user and item; expected ({count},), a rating each"
    )
