"""The description of a kind of layer: where the channels of each side lie in which of its tensors.

An :class:`Axis` is one dimension of one tensor; a :class:`LayerKind` is all that a pruner knows about one kind of
layer. The kinds themselves are in ``kinds.py`` and ``attention.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autoprune.core.channel_groups import Side


@dataclass(frozen=True)
class Axis:
    """Where the channels of one side of a module lie along one dimension of one of its tensors.

    Channel ``c`` with ``start <= c < start + count`` owns, for every offset, the ``block`` positions from
    ``offset + (c - start) * block``.

    Attributes:
        tensor: name of a parameter or buffer of the module, ``"weight"``, ``"out_proj.weight"``.
        dim: the dimension that gets shorter.
        side: which channels.
        start: first channel that lies here.
        count: how many channels lie here; ``None`` for all from ``start``.
        offsets: where the channels begin, once for each gate or projection.
        block: positions per channel, the head size in attention.
        produces: whether these numbers make the channel (its filter), rather than read it.
        period: in every group of a grouped layer channels lie at the same positions, which repeat after so many;
            ``None`` if each has positions of its own.
        is_direction: whether the tensor is only divided by its own length, so that zeros in it would mean nothing.
    """

    tensor: str
    dim: int
    side: Side
    start: int = 0
    count: int | None = None
    offsets: tuple[int, ...] = (0,)
    block: int = 1
    produces: bool = True
    period: int | None = None
    is_direction: bool = False

    def of(self, channel: int) -> tuple[int, ...]:
        """Return the positions of one channel, none if it does not lie here."""
        place = channel - self.start
        if place < 0 or (self.count is not None and place >= self.count):
            return ()
        if self.period is not None:
            place %= self.period
        return tuple(offset + place * self.block + i for offset in self.offsets for i in range(self.block))

    def positions(self, channels: Iterable[int]) -> tuple[int, ...]:
        """Return the positions of several channels, in their order, each once."""
        if self.offsets == (0,) and self.block == 1 and self.period is None:  # nearly all; a large network has millions
            end = float("inf") if self.count is None else self.start + self.count
            return tuple(dict.fromkeys(c - self.start for c in channels if self.start <= c < end))
        return tuple(dict.fromkeys(position for channel in channels for position in self.of(channel)))


SideSizes = Mapping[Side, int]


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer.

    Attributes:
        name: for messages.
        matches: whether a module is of this kind.
        sizes: how many channels it has on each side.
        axes: where they lie.
        resize: updates the module's own attributes after its tensors were cut, given what stays on each side;
            ``None`` if it has none.
        slim: returns a module with the same tensors whose forward pass reads all sizes from them, put in place of
            the module before it is cut; ``None`` if the module's own forward pass does so.
        masked: returns a module that computes, with zeroed channels, what the cut module computes without them;
            ``None`` if the module itself does, as all do that treat each channel by itself.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    sizes: Callable[[Any], SideSizes]
    axes: Callable[[Any], tuple[Axis, ...]]
    resize: Callable[[Any, Mapping[Side, tuple[int, ...]]], None] | None = None
    slim: Callable[[Any], nn.Module] | None = None
    masked: Callable[[Any, tuple[int, ...]], nn.Module] | None = None


def tensor_of(module: nn.Module, name: str) -> Tensor | None:
    """Return a parameter or buffer by its name below a module, ``None`` if it is switched off."""
    holder, _, leaf = name.rpartition(".")
    found = getattr(module.get_submodule(holder), leaf, None)
    return found if isinstance(found, Tensor) else None
