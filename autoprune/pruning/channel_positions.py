"""Where channels lie in the tensors of a network, and what removing one takes away from each of them.

A *part* of a network is a module, or a parameter that belongs to no layer autoprune knows. Read by plans
(``cut_plan.py``), by surgery, and by the cost model, which gets :func:`tensor_shrinks` as plain data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup, Shrink, Side
from autoprune.errors import ModelError
from autoprune.pruning.layers.kinds import axes_of, kind_of
from autoprune.pruning.number_attributes import NUMBER, numbers_of


def part_at(network: nn.Module, path: str) -> Any:
    """Return the module, parameter or buffer of a path.

    Raises:
        ModelError: if there is none.
    """
    holder, _, leaf = path.rpartition(".")
    try:
        found = getattr(network.get_submodule(holder), leaf) if path else network
    except AttributeError:
        found = None
    if not isinstance(found, (nn.Module, Tensor)):
        raise ModelError(f"the network has no module or parameter {path!r}; the cut was made for another network")
    return found


def sizes_of(network: nn.Module, path: str) -> Mapping[Side, int]:
    """Return how many channels a layer has on each side, or a bare parameter along each dimension.

    The numbers that a module keeps are sides too, ``number:width``.

    Raises:
        ModelError: if the path leads to nothing, or to a module that cannot be cut.
    """
    found = part_at(network, path)
    if isinstance(found, Tensor):
        return {f"dim{d}": size for d, size in enumerate(found.shape)}
    kind, numbers = kind_of(found), numbers_of(found)
    if kind is None and not numbers:
        raise ModelError(f"{path!r} is a {type(found).__name__}, which has no channels that can be cut")
    return {**(kind.sizes(found) if kind else {}), **numbers}


def positions_of(
    network: nn.Module, path: str, side: Side, channels: Iterable[int]
) -> Iterable[tuple[str, int, tuple[int, ...]]]:
    """Yield where channels of one side lie: tensor path, dimension, positions along it."""
    if side.startswith(NUMBER):
        return
    channels = tuple(channels)
    found = part_at(network, path)
    if isinstance(found, Tensor):
        yield path, int(side.removeprefix("dim")), channels
        return
    for axis in axes_of(found, side):
        yield f"{path}.{axis.tensor}".removeprefix("."), axis.dim, axis.positions(channels)


def tensor_shrinks(network: nn.Module, groups: Iterable[PruningGroup]) -> dict[str, tuple[Shrink, ...]]:
    """Return group name → what one channel of it takes away from each tensor of the network.

    The matrix products of attention count as a tensor too, ``MODULE:products``, with a dimension of heads.
    """
    return {group.name: tuple(_shrinks_of(network, group)) for group in groups}


def _shrinks_of(network: nn.Module, group: PruningGroup) -> Iterable[Shrink]:
    found: dict[tuple[str, int], int] = {}
    for member in group.members:
        for tensor, dim, positions in positions_of(network, member.module, member.side, member.of(0)):
            if positions:
                found[tensor, dim] = found.get((tensor, dim), 0) + len(positions)
        if member.side == "heads":
            found[f"{member.module}:products", 0] = member.width
    yield from (Shrink(tensor, dim, count) for (tensor, dim), count in found.items())
    for share in group.products:
        yield Shrink(f"{share.module}:products", 0, share.width, share)
