"""Cut channels out of a network: physical surgery from kept indices, and its masked twin.

:func:`shrink` makes a smaller copy; :func:`zeroed` makes a copy of the same size with the same channels zeroed. In
eval mode both compute the same function: that is the oracle by which every group is proved (``groups.py``) and every
criterion tested. Which tensors a channel lies in is said by ``layers.py``; kept indices alone rebuild a picked network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.policy import PruningPolicy
from autoprune.core.space import Block, PruningGroup, SearchSpace, Shrink, Side
from autoprune.errors import ModelError
from autoprune.pruning.blocks import drop
from autoprune.pruning.layers.kinds import axes_of, kind_of

Scores = Mapping[str, Mapping[str, Tensor]]
BLOCK = "block"  # the side of a module that goes whole


@dataclass(frozen=True)
class KeptChannels:
    """Say which channels of one module stay.

    Attributes:
        sides: side → indices that stay, ascending; a side that is not named stays whole. The side ``block``, with
            no indices, says that the module is dropped.
    """

    sides: Mapping[Side, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, list[int]]:
        """Return plain types; sides that stay whole are left out."""
        return {side: list(indices) for side, indices in self.sides.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeptChannels:
        """Return what :meth:`to_json` wrote."""
        return cls({str(side): tuple(int(i) for i in indices) for side, indices in data.items()})


CutPlan = Mapping[str, KeptChannels]
"""Module path, or path of a bare parameter → what stays of it; whatever is not named stays whole."""


def lowest(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the ``count`` channels that score lowest, ascending; of equal scores the lower index goes first.

    Args:
        scores: shape ``(num_channels,)``, larger = keep.
        count: how many to remove.
    """
    order = torch.argsort(scores.double(), stable=True)
    return tuple(sorted(order[:count].tolist()))


def removed_channels(space: SearchSpace, policy: PruningPolicy, scores: Scores) -> dict[str, tuple[int, ...]]:
    """Return group name → channels to remove, for every group that loses any.

    Args:
        space: the groups, and the channel counts that exist.
        policy: what to prune.
        scores: criterion → group → scores of shape ``(num_channels,)``.

    Raises:
        ModelError: if the policy names an unknown group, or a criterion without scores for it.
    """
    removed = {}
    channels = space.counts(policy).channels
    for name, group in space.by_name.items():
        count = group.num_channels - channels[name]
        if not count:
            continue
        criterion = policy.groups[name].importance
        if name not in scores.get(criterion, {}):
            raise ModelError(
                f"group {name!r} has no scores by {criterion!r}; the study scores it by "
                f"{', '.join(space.importances[name])}"
            )
        removed[name] = lowest(scores[criterion][name], count)
    return removed


def cut_of(
    network: nn.Module,
    groups: Iterable[PruningGroup],
    removed: Mapping[str, Iterable[int]],
    dropped: Iterable[str] = (),
) -> dict[str, KeptChannels]:
    """Return what stays of every module once these channels of these groups, and these blocks, are gone.

    Args:
        network: the dense network; only its shapes are read.
        groups: the groups that ``removed`` may name.
        removed: group name → channels to remove.
        dropped: paths of blocks that go whole; what lies inside them is not named.
    """
    blocks = [Block(name) for name in dropped]
    gone: dict[str, dict[Side, set[int]]] = {}
    for group in groups:
        channels = tuple(removed.get(group.name, ()))
        for member in group.members if channels else ():
            if not any(block.holds(member.module) for block in blocks):
                indices = gone.setdefault(member.module, {}).setdefault(member.side, set())
                indices.update(index for channel in channels for index in member.of(channel))
    cut = {block.name: KeptChannels({BLOCK: ()}) for block in blocks}
    for path, sides in gone.items():
        sizes = sizes_of(network, path)
        cut[path] = KeptChannels(
            {side: tuple(i for i in range(sizes[side]) if i not in lost) for side, lost in sorted(sides.items())}
        )
    return cut


def sizes_of(network: nn.Module, path: str) -> Mapping[Side, int]:
    """Return how many channels a layer has on each side, or a bare parameter along each dimension.

    Raises:
        ModelError: if there is nothing of that path, or it is of a kind that cannot be cut.
    """
    found = _at(network, path)
    if isinstance(found, Tensor):
        return {f"dim{d}": size for d, size in enumerate(found.shape)}
    kind = kind_of(found)
    if kind is None:
        raise ModelError(f"{path!r} is a {type(found).__name__}, which has no channels that can be cut")
    return kind.sizes(found)


def shrinks(network: nn.Module, groups: Iterable[PruningGroup]) -> dict[str, tuple[Shrink, ...]]:
    """Return group name → what one channel of it takes away from each tensor of the network.

    The matrix products of attention count as a tensor too, ``MODULE:products``, with a dimension of heads.
    """
    return {group.name: tuple(_shrinks_of(network, group)) for group in groups}


def _shrinks_of(network: nn.Module, group: PruningGroup) -> Iterable[Shrink]:
    found: dict[tuple[str, int], int] = {}
    for member in group.members:
        for tensor, dim, positions in _positions(network, member.module, member.side, member.of(0)):
            if positions:
                found[tensor, dim] = found.get((tensor, dim), 0) + len(positions)
        if member.side == "heads":
            found[f"{member.module}:products", 0] = member.width
    return (Shrink(tensor, dim, count) for (tensor, dim), count in found.items())


def _positions(
    network: nn.Module, path: str, side: Side, channels: Iterable[int]
) -> Iterable[tuple[str, int, tuple[int, ...]]]:
    """Yield where channels of one side lie: tensor path, dimension, positions along it."""
    channels = tuple(channels)
    found = _at(network, path)
    if isinstance(found, Tensor):
        yield path, int(side.removeprefix("dim")), channels
        return
    for axis in axes_of(found, side):
        yield f"{path}.{axis.tensor}".removeprefix("."), axis.dim, axis.positions(channels)


def shrink(network: nn.Module, cut: CutPlan) -> nn.Module:
    """Return a smaller copy of a network that has only what is kept; the original is not touched.

    Raises:
        ModelError: if a module is missing, or its shape does not have the indices.
    """
    for path, kept in cut.items():
        _check_indices(network, path, kept)
    small = copy.deepcopy(network)
    drop(small, _dropped(cut))
    for path, kept in cut.items():
        if BLOCK not in kept.sides:
            _shrink_one(small, path, kept.sides)
    return small


def _shrink_one(network: nn.Module, path: str, sides: Mapping[Side, tuple[int, ...]]) -> None:
    gone = _gone(network, path, sides)
    found = _at(network, path)
    kind = kind_of(found) if isinstance(found, nn.Module) else None
    if kind is not None and kind.slim is not None:
        _put(network, path, kind.slim(found))
    for (tensor, dim), positions in gone.items():
        _replace(network, tensor, partial(_without, dim=dim, positions=positions))
    if kind is not None and kind.resize is not None:
        kind.resize(_at(network, path), sides)


def zeroed(network: nn.Module, cut: CutPlan) -> nn.Module:
    """Return a copy of the same size with the weights of every channel that ``cut`` would remove set to zero.

    Norms whose statistics run over channels are replaced by twins that leave the removed ones out; dropped blocks
    are dropped. Running means and variances stay, because a scale of zero silences them.
    """
    masked = copy.deepcopy(network)
    drop(masked, _dropped(cut))
    for path, kept in cut.items():
        if BLOCK in kept.sides:
            continue
        for (tensor, dim), positions in _gone(masked, path, kept.sides).items():
            if not tensor.endswith(("running_mean", "running_var")):
                _replace(masked, tensor, partial(_silenced, dim=dim, positions=positions))
        found = _at(masked, path)
        kind = kind_of(found) if isinstance(found, nn.Module) else None
        if kind is not None and kind.masked is not None and "out" in kept.sides:
            _put(masked, path, kind.masked(found, kept.sides["out"]))
    return masked


def _dropped(cut: CutPlan) -> list[str]:
    return [path for path, kept in cut.items() if BLOCK in kept.sides]


def _gone(
    network: nn.Module, path: str, sides: Mapping[Side, tuple[int, ...]]
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return (tensor path, dimension) → positions that go, for everything a module loses."""
    sizes = sizes_of(network, path)
    gone: dict[tuple[str, int], set[int]] = {}
    for side, indices in sides.items():
        stay = set(indices)
        lost = [channel for channel in range(sizes[side]) if channel not in stay]
        for tensor, dim, positions in _positions(network, path, side, lost):
            gone.setdefault((tensor, dim), set()).update(positions)
    return {where: tuple(sorted(positions)) for where, positions in gone.items()}


def _at(network: nn.Module, path: str) -> Any:
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


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    holder, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(holder), leaf, module)


def _check_indices(network: nn.Module, path: str, kept: KeptChannels) -> None:
    if BLOCK in kept.sides:
        return
    sizes = sizes_of(network, path)
    for side, indices in kept.sides.items():
        channels = sizes.get(side, 0)
        if not indices or not 0 <= indices[0] <= indices[-1] < channels:
            raise ModelError(
                f"{path!r} has {channels} {side} channels and cannot keep {len(indices)} of them up to "
                f"{max(indices, default=-1)}; the cut was made for another network"
            )


def _replace(network: nn.Module, path: str, edit: Callable[[Tensor], Tensor]) -> None:
    """Put an edited copy of a parameter or buffer in its place."""
    holder, _, leaf = path.rpartition(".")
    module = network.get_submodule(holder)
    tensor = getattr(module, leaf)
    edited = edit(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        edited = nn.Parameter(edited, requires_grad=tensor.requires_grad)
    setattr(module, leaf, edited)


def _without(tensor: Tensor, dim: int, positions: tuple[int, ...]) -> Tensor:
    stay = torch.ones(tensor.shape[dim], dtype=torch.bool)
    stay[list(positions)] = False
    index = stay.nonzero().flatten().to(tensor.device)
    return tensor.index_select(dim, index).contiguous(memory_format=_format_of(tensor))


def _silenced(tensor: Tensor, dim: int, positions: tuple[int, ...]) -> Tensor:
    index = torch.tensor(positions, dtype=torch.int64, device=tensor.device)
    return tensor.index_fill(dim, index, 0)


def _format_of(tensor: Tensor) -> torch.memory_format:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


@dataclass(frozen=True)
class Pruner:
    """Prune copies of one dense network by policy.

    Attributes:
        network: the dense network; never modified.
        space: its groups and the channel counts that exist.
        scores: criterion → group → importance scores of shape ``(num_channels,)``.
    """

    network: nn.Module
    space: SearchSpace
    scores: Scores

    def cut(self, policy: PruningPolicy) -> dict[str, KeptChannels]:
        """Return what stays of every module that a policy cuts.

        Raises:
            ModelError: if the policy names an unknown group, or a criterion without scores for it.
        """
        removed = removed_channels(self.space, policy, self.scores)
        return cut_of(self.network, self.space.groups, removed, policy.dropped_blocks)

    def prune(self, policy: PruningPolicy) -> nn.Module:
        """Return the pruned network: a smaller copy on the dense network's device. Masks are not applied here.

        Raises:
            ModelError: as :meth:`cut`.
        """
        return shrink(self.network, self.cut(policy))
