"""Several batches of calibration examples as one, because each layer is refitted on all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from autoprune.models.calling.inputs import Inputs


def joined(batches: Iterable[Inputs], most: int) -> Inputs | None:
    """Return the examples of several batches as one batch.

    Args:
        batches: what the network is called with.
        most: at most so many examples are taken, and no more batches than it takes.

    Returns:
        one batch; the first one alone where examples cannot be told apart; without those whose tensors have other
        shapes than the first one's, as sequences of other lengths; ``None`` if there is no batch.

    >>> joined([Inputs.of(torch.zeros(3, 4)), Inputs.of(torch.zeros(3, 4))], most=5).size
    5
    """
    taken, count = list[Inputs](), 0
    for batch in batches:
        if taken and _shapes(batch) != _shapes(taken[0]):
            continue
        taken.append(batch)
        count += batch.size or most
        if count >= most:
            break
    if len(taken) < 2:
        return taken[0].first(most) if taken else None
    columns = [iter(batch.tensors) for batch in taken[1:]]
    return taken[0].map(lambda tensor: _stacked([tensor, *map(next, columns)])).first(most)


def _shapes(batch: Inputs) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape[1:], tensor.dtype) for tensor in batch.tensors]


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(tensors))
