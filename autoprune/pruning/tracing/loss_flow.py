"""What becomes of lost channels: a channel that an operation loses is frozen only if the result reaches the output.

A check for NaN, a statistic that is printed, or a value that is never used says nothing about what can be cut. So the
losses of an operation travel with its result, by memory and not by tensor: a write into a view reaches its base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from autoprune.pruning.tracing.channel_union import LostChannel
from autoprune.pruning.tracing.memory import memory_of


class LossFlow:
    """The losses that every tensor of a forward pass carries."""

    def __init__(self) -> None:
        self._carried: dict[int, frozenset[LostChannel]] = {}
        self._alive: list[Any] = []  # memory that carries something is never given to another tensor

    def of(self, tensors: Iterable[Tensor]) -> frozenset[LostChannel]:
        """Return all losses that some tensors carry."""
        if not self._carried:
            return frozenset()
        return frozenset().union(*(self._carried.get(memory_of(tensor) or 0, frozenset()) for tensor in tensors))

    def add(self, tensors: Iterable[Tensor], losses: frozenset[LostChannel]) -> None:
        """Let tensors carry losses, beside what they carry already."""
        if not losses:
            return
        for tensor in tensors:
            place = memory_of(tensor)
            if not place:
                continue
            if place not in self._carried:
                self._alive.append(tensor.untyped_storage())
            self._carried[place] = self._carried.get(place, frozenset()) | losses
