"""Groups of coupled channels, and blocks: what can be cut of a network, as plain data.

They are found and proved in ``pruning``; here they carry no tensor, so that costs, proposals and reports can be
computed without the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Side: TypeAlias = str
"""``out`` (produced or normalised), ``in`` (read), ``heads`` of attention, or ``dim0`` … of a bare parameter."""


@dataclass(frozen=True)
class Member:
    """Where the channels of a group lie in one module.

    Attributes:
        module: module path, or the path of a parameter that belongs to no layer.
        side: ``"out"`` for the channels a module produces (or normalises), ``"in"`` for those it reads, ``"heads"``
            for the heads of attention, ``"dim0"`` … for a dimension of a bare parameter.
        indices: the module's channel indices, channel-major: channel ``c`` of the group owns
            ``indices[c * width : (c + 1) * width]``.
        width: module channels per channel of the group; more than 1 after a flatten.
    """

    module: str
    side: Side
    indices: tuple[int, ...]
    width: int = 1

    def of(self, channel: int) -> tuple[int, ...]:
        """Return the module's indices that belong to one channel of the group."""
        return self.indices[channel * self.width : (channel + 1) * self.width]


@dataclass(frozen=True)
class ProductShare:
    """A matrix product that shrinks with the channels of a group, though no weight of it does.

    It is one of activations, as in attention, or one with a weight that runs over positions, once for each channel.

    Attributes:
        module: path of the innermost module that multiplies.
        key: which product of the network, and which of its dimensions that shrink.
        macs: multiply–accumulates of the whole product, for one input.
        size: length of that dimension in the dense network.
        width: positions along it per channel of the group.
        weight: path of the weight; empty for a product of activations.
    """

    module: str
    key: tuple[int, int]
    macs: int
    size: int
    width: int
    weight: str = ""


@dataclass(frozen=True)
class PruningGroup:
    """Channels that must go together, as after a residual add or a concatenation.

    Attributes:
        name: module path of the first layer that produces them; stable across processes.
        num_channels: how many there are.
        members: every place where they appear.
        is_residual: whether several layers add into the same channels, as in a residual stream.
        products: matrix products that shrink with it, beside the weights among its members.
    """

    name: str
    num_channels: int
    members: tuple[Member, ...]
    is_residual: bool = False
    products: tuple[ProductShare, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the paths of the modules and parameters that the group runs through, each once."""
        return tuple(dict.fromkeys(member.module for member in self.members))

    def producers(self) -> tuple[Member, ...]:
        """Return the members that produce the channels (norms included)."""
        return tuple(member for member in self.members if member.side != "in")


@dataclass(frozen=True)
class Block:
    """A module that can be dropped whole, because it only adds to what passes through it.

    Attributes:
        name: module path.
        groups: groups that live inside it alone, and mean nothing once it is dropped.
    """

    name: str
    groups: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Return whether a module or tensor path lies inside the block."""
        return path == self.name or path.startswith(f"{self.name}.")


@dataclass(frozen=True)
class FrozenGroup:
    """A group that cannot be cut, with the reason in words a user understands.

    Attributes:
        name: module path of the first layer that produces its channels.
        num_channels: how many there are.
        reason: why it stays whole.
        layers: paths of the modules and parameters that it runs through, where they are known.
    """

    name: str
    num_channels: int
    reason: str
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shrink:
    """What one channel of a group takes away from one tensor of the network.

    Attributes:
        tensor: path of a parameter or buffer, or ``MODULE:products`` for the matrix products of attention.
        dim: the dimension that gets shorter.
        per_channel: by how much, for each channel removed.
        product: the one product of activations that this is about; ``None`` for a tensor, and for all products of an
            attention module together.
    """

    tensor: str
    dim: int
    per_channel: int
    product: ProductShare | None = None
