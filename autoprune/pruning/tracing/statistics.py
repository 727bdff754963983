"""Means, norms and maxima over channels: what a cut network computes over fewer, its masked twin must as well.

A network without some channels takes such a statistic over those that stay. To compare it with the dense network with
the same channels zeroed, the statistics of the latter must leave the removed ones out; :class:`WithoutRemoved` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autoprune.pruning.tracing.operation import operation

_REDUCTIONS = (
    "mean sum amax amin max min var std prod logsumexp norm linalg_vector_norm var_mean std_mean nanmean median"
)
REDUCTIONS = frozenset(_REDUCTIONS.split())


@dataclass(frozen=True)
class Statistic:
    """One statistic over channels.

    Attributes:
        number: which of the reductions of a forward pass it is, from 0.
        dim: the dimension along which channels lie.
        atoms: the channel at each position, int64 ``(size,)``; 0 for none that can be cut.
    """

    number: int
    dim: int
    atoms: Tensor


class WithoutRemoved(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode in which statistics leave removed channels out.

    Args:
        statistics: those that were seen in the trace.
        is_removed: whether the channel of an atom is removed.
    """

    def __init__(self, statistics: Sequence[Statistic], is_removed: Callable[[int], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places: Mapping[int, Statistic] = {statistic.number: statistic for statistic in statistics}
        self._is_removed = is_removed
        self._number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, a statistic on what stays."""
        if operation(func) in REDUCTIONS:
            statistic = self._places.get(self._number)
            self._number += 1
            if statistic is not None:
                stays = [not self._is_removed(atom) for atom in statistic.atoms.tolist()]
                index = torch.tensor(stays).nonzero().flatten().to(args[0].device)
                args = (args[0].index_select(statistic.dim, index), *args[1:])
        return func(*args, **(kwargs or {}))
