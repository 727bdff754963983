"""Layers that share a weight, as an embedding and the output layer often do: what one loses, the others lose too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from autoprune.core.channel_groups import Side
from autoprune.pruning.layers.axes import Axis
from autoprune.pruning.layers.kinds import axes_of, kind_of
from autoprune.pruning.tracing.tensor_names import parameter_holders

_Owner = tuple[str, Side]


class TiedWeights:
    """The sides of layers that lie along one dimension of a weight they share.

    Args:
        network: any.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._holders = parameter_holders(network)
        self._tied = {path for holders in self._holders.values() if len(holders) > 1 for path, _ in holders}

    def holds(self, path: str, weight: object) -> bool:
        """Return whether a module itself holds a weight that it shares."""
        return path in self._tied and any(path == holder for holder, _ in self._holders.get(id(weight), ()))

    def partners(self, path: str, side: Side) -> list[tuple[str, Side, int]] | None:
        """Return every side that goes with one, with its size, itself left out; ``None`` if one of them cannot go.

        Args:
            path: of a layer.
            side: of it.
        """
        if path not in self._tied:
            return []
        seen, waiting = {(path, side)}, [(path, side)]
        while waiting:
            owner = waiting.pop()
            found = self._beside(*owner)
            if found is None:
                return None
            waiting += [each for each in found if each not in seen]
            seen.update(found)
        return [(*owner, self._size(*owner)) for owner in sorted(seen - {(path, side)})]

    def _beside(self, path: str, side: Side) -> set[_Owner] | None:
        """Return the sides along the same dimensions of the weights that a layer shares."""
        found = set[_Owner]()
        module = self._network.get_submodule(path)
        for name, parameter in module.named_parameters(recurse=False):
            holders = self._holders[id(parameter)]
            axis = _plain_axis(module, name, side=side)
            if len(holders) < 2 or not any(each.tensor == name for each in axes_of(module, side)):
                continue
            if axis is None:
                return None
            for other, its_name in holders:
                across = _plain_axis(self._network.get_submodule(other), its_name, dim=axis.dim)
                if across is None:
                    return None
                found.add((other, across.side))
        return found

    def _size(self, path: str, side: Side) -> int:
        module = self._network.get_submodule(path)
        kind = kind_of(module)
        return kind.sizes(module)[side] if kind is not None else 0


def _plain_axis(module: nn.Module, name: str, *, side: Side | None = None, dim: int | None = None) -> Axis | None:
    """Return the one axis of a tensor that has this side or dimension, if its channels lie one after the other."""
    found = [axis for axis in _axes(module) if axis.tensor == name and (axis.side == side or axis.dim == dim)]
    if len(found) != 1:
        return None
    plain = Axis(name, found[0].dim, found[0].side, produces=found[0].produces)
    return found[0] if replace(found[0], is_direction=False) == plain else None


def _axes(module: nn.Module) -> Iterable[Axis]:
    return axes_of(module) if kind_of(module) is not None else ()
