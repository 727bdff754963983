"""Which channels are one and the same: every channel of every layer has a number, and the trace unites them.

Each channel on each side of each layer is an *atom*, a number from 1. While a network runs, a tensor of atoms of the
same shape accompanies every activation and says, element by element, which channel it belongs to; 0 is "none that
can be cut". Where two channels meet their atoms are united. What is left apart can be cut apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from autoprune.core.channel_groups import Side

Owner = tuple[str, Side]
LostChannel = tuple[int, str]
"""A channel that was lost, and why; it is frozen only if what it was lost in reaches the network's output."""


class Channels:
    """Numbered channels, which can be united, and frozen with a reason (union-find).

    Attributes:
        whereabouts: returns where in the user's code the trace is; appended to a reason.
    """

    def __init__(self, whereabouts: Callable[[], str] = lambda: "") -> None:
        self._parent = [0]
        self._reasons: dict[int, str] = {}
        self._added: set[int] = set()
        self._held: list[LostChannel] | None = None
        self._first: dict[Owner, tuple[int, int]] = {}
        self.whereabouts = whereabouts

    def atoms(self, path: str, side: Side, count: int) -> Tensor:
        """Return the atoms of one side of a layer, int64 ``(count,)``; the same ones at every call."""
        if (path, side) not in self._first:
            first = len(self._parent)
            self._first[path, side] = first, count
            self._parent.extend(range(first, first + count))
        first, count = self._first[path, side]
        return torch.arange(first, first + count)

    def owners(self) -> Iterable[tuple[Owner, list[int]]]:
        """Yield every side of every layer that was seen, with the class of each of its channels."""
        for owner, (first, count) in self._first.items():
            yield owner, [self.find(atom) for atom in range(first, first + count)]

    def find(self, atom: int) -> int:
        """Return the atom that stands for the class of an atom."""
        root = atom
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[atom] != root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def unite(self, first: Tensor, second: Tensor) -> None:
        """Unite the atoms of two tensors element by element, the second broadcast; an atom that meets 0 is frozen."""
        for a, b in _pairs(first, second.expand(first.shape)):
            a, b = self.find(a), self.find(b)
            if a == b:
                continue
            low, high = min(a, b), max(a, b)
            if not low:
                self._freeze(high, "is combined with a tensor of fixed size" + self.whereabouts())
                continue
            self._parent[high] = low
            if high in self._reasons:
                self._reasons.setdefault(low, self._reasons[high])

    def unite_along(self, labels: Tensor, dims: Sequence[int]) -> None:
        """Unite everything that differs only in its position along some dimensions."""
        for dim in dims:
            if labels.shape[dim] > 1 and labels.stride(dim):
                self.unite(labels, labels.narrow(dim, 0, 1).expand_as(labels))

    def freeze(self, labels: Tensor | None, reason: str, *, here: bool = True) -> None:
        """Freeze every channel in a tensor of atoms; the first reason stays.

        Args:
            labels: atoms; ``None`` for nothing.
            reason: why.
            here: whether the line of the user's code is appended.
        """
        if labels is None:
            return
        for atom in torch.unique(compact(labels)[0]).tolist():
            if atom:
                self._freeze(self.find(atom), reason + (self.whereabouts() if here else ""))

    def _freeze(self, root: int, reason: str) -> None:
        if self._held is None:
            self._reasons.setdefault(root, reason)
        else:
            self._held.append((root, reason))

    def freeze_now(self, labels: Tensor, reason: str) -> None:
        """Freeze every channel in a tensor of atoms, whatever becomes of the result; for weights that are shared."""
        held, self._held = self._held, None
        self.freeze(labels, reason)
        self._held = held

    @contextmanager
    def holding(self) -> Iterator[list[LostChannel]]:
        """Collect what is frozen meanwhile, instead of freezing it."""
        self._held = losses = list[LostChannel]()
        try:
            yield losses
        finally:
            self._held = None

    def freeze_lost(self, losses: Iterable[LostChannel]) -> None:
        """Freeze channels that were lost earlier."""
        for atom, reason in losses:
            self._reasons.setdefault(self.find(atom), reason)

    def note_added(self, labels: Tensor) -> None:
        """Record that these channels are sums: several layers add into them, as in a residual stream."""
        self._added.update(atom for atom in torch.unique(compact(labels)[0]).tolist() if atom)

    def added(self) -> set[int]:
        """Return the classes that are sums."""
        return {self.find(atom) for atom in self._added}

    def reason(self, atom: int) -> str | None:
        """Return why a channel is frozen, ``None`` if it is not."""
        return self._reasons.get(self.find(atom))

    def classes(self, labels: Tensor) -> Tensor:
        """Return each atom's class instead of the atom."""
        values, inverse = torch.unique(labels, return_inverse=True)
        return torch.tensor([self.find(atom) for atom in values.tolist()])[inverse]

    def varying(self, labels: Tensor | None) -> set[int]:
        """Return the dimensions along which a tensor of atoms holds different channels."""
        if labels is None:
            return set()
        candidates = [d for d in range(labels.dim()) if labels.shape[d] > 1 and labels.stride(d)]
        if not candidates:
            return set()
        small = labels
        for d in range(labels.dim()):
            small = small if d in candidates else small.narrow(d, 0, 1)
        small = self.classes(small)
        return {d for d in candidates if not torch.equal(small, small.narrow(d, 0, 1).expand_as(small))}


def compact(*tensors: Tensor) -> list[Tensor]:
    """Return tensors of one shape, flat, with one position along every dimension in which none of them changes."""
    broadcast = tuple(t.expand(tensors[0].shape) for t in tensors)
    for dim in range(broadcast[0].dim()):
        if all(t.shape[dim] == 1 or t.stride(dim) == 0 for t in broadcast):
            broadcast = tuple(t.narrow(dim, 0, min(1, t.shape[dim])) for t in broadcast)
    return [t.reshape(-1) for t in broadcast]


def _pairs(first: Tensor, second: Tensor) -> list[list[int]]:
    """Return the different pairs of atoms that meet, without those that are equal already."""
    a, b = compact(first, second)
    different = a != b
    if not different.any():
        return []
    pairs: list[list[int]] = torch.unique(torch.stack([a[different], b[different]], 1), dim=0).tolist()
    return pairs
