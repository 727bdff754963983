"""Surgery on a network by a plan: a smaller copy, and its masked twin.

:func:`shrink` makes a smaller copy; :func:`zeroed` makes a copy of the same size with the same channels zeroed. In
eval mode both compute the same function: that is the oracle by which every group is proved (``groups.py``) and every
criterion tested. :class:`Pruner` goes from a policy to the pruned network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import Side
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.errors import ModelError
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.channel_positions import part_at, positions_of, sizes_of
from autoprune.pruning.cut_plan import BLOCK, CutPlan, KeptChannels, dropped_blocks, plan_cut
from autoprune.pruning.drop_blocks import drop_blocks, replace_module
from autoprune.pruning.importance import ImportanceScores
from autoprune.pruning.layers.kinds import axes_of, kind_of
from autoprune.pruning.number_attributes import NUMBER, set_number

Copier = Callable[[nn.Module], nn.Module]


def lowest_channels(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the ``count`` channels that score lowest, ascending; of equal scores the lower index goes first.

    Args:
        scores: shape ``(num_channels,)``, larger = keep.
        count: how many to remove.
    """
    order = torch.argsort(scores.double(), stable=True)
    return tuple(sorted(order[:count].tolist()))


def removed_channels(space: SearchSpace, policy: PruningPolicy, scores: ImportanceScores) -> dict[str, tuple[int, ...]]:
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
        removed[name] = lowest_channels(scores[criterion][name], count)
    return removed


def shrink(network: nn.Module, cut: CutPlan, copied: Copier = copy_network) -> nn.Module:
    """Return a smaller copy of a network that has only the kept channels; the original is not touched.

    Args:
        network: the dense network.
        cut: what stays.
        copied: makes the copy that is cut.

    Raises:
        ModelError: if a module is missing, or its shape does not have the indices.
    """
    for path, kept in cut.items():
        _check_indices(network, path, kept)
    small = copied(network)
    drop_blocks(small, dropped_blocks(cut))
    with _ties_kept(small):
        for path, kept in cut.items():
            if BLOCK not in kept.sides:
                _shrink_one(small, path, kept.sides)
    return small


@contextmanager
def _ties_kept(network: nn.Module) -> Iterator[None]:
    """Let layers that share a parameter share one afterwards too, where each was cut alike."""
    holders: dict[int, list[str]] = {}
    for path, parameter in network.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(path)
    ties = [paths for paths in holders.values() if len(paths) > 1]
    yield
    after = dict(network.named_parameters(remove_duplicate=False)) if ties else {}
    for paths in ties:
        left = [path for path in paths if path in after]  # what held the others was dropped or replaced
        if len({after[path].shape for path in left}) == 1:
            for path in left[1:]:
                holder, _, leaf = path.rpartition(".")
                setattr(network.get_submodule(holder), leaf, after[left[0]])


def _shrink_one(network: nn.Module, path: str, sides: Mapping[Side, tuple[int, ...]]) -> None:
    gone = _gone(network, path, sides)
    found = part_at(network, path)
    kind = kind_of(found) if isinstance(found, nn.Module) else None
    if kind is not None and kind.slim is not None:
        replace_module(network, path, kind.slim(found))
    for (tensor, dim), positions in gone.items():
        _replace(network, tensor, partial(_without, dim=dim, positions=positions))
    if kind is not None and kind.resize is not None:
        kind.resize(part_at(network, path), sides)
    for side, indices in sides.items():
        if side.startswith(NUMBER):
            set_number(part_at(network, path), side, len(indices))


def zeroed(network: nn.Module, cut: CutPlan, copied: Copier = copy_network) -> nn.Module:
    """Return a copy of the same size with the weights of every channel that ``cut`` would remove set to zero.

    Norms whose statistics run over channels are replaced by twins that leave the removed ones out; dropped blocks
    are dropped. Running means and variances stay, because a scale of zero silences them.
    """
    masked = copied(network)
    drop_blocks(masked, dropped_blocks(cut))
    for path, kept in cut.items():
        if BLOCK in kept.sides:
            continue
        spared, silent = _directions(masked, path), dict[str, dict[int, tuple[int, ...]]]()
        for (tensor, dim), positions in _gone(masked, path, kept.sides).items():
            if not tensor.endswith(("running_mean", "running_var")) and (tensor, dim) not in spared:
                silent.setdefault(tensor, {})[dim] = positions
        for tensor, by_dim in silent.items():
            _replace(masked, tensor, partial(_silenced, by_dim=by_dim))
        found = part_at(masked, path)
        kind = kind_of(found) if isinstance(found, nn.Module) else None
        if kind is not None and kind.masked is not None and "out" in kept.sides:
            replace_module(masked, path, kind.masked(found, kept.sides["out"]))
    return masked


def _directions(network: nn.Module, path: str) -> set[tuple[str, int]]:
    """Return the tensors and dimensions in which a zero would mean nothing, because only directions count."""
    found = part_at(network, path)
    axes = axes_of(found) if isinstance(found, nn.Module) else ()
    return {(f"{path}.{axis.tensor}".removeprefix("."), axis.dim) for axis in axes if axis.is_direction}


def _gone(
    network: nn.Module, path: str, sides: Mapping[Side, tuple[int, ...]]
) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return (tensor path, dimension) → positions that go, for everything a module loses."""
    sizes = sizes_of(network, path)
    gone: dict[tuple[str, int], set[int]] = {}
    for side, indices in sides.items():
        stay = set(indices)
        lost = [channel for channel in range(sizes[side]) if channel not in stay]
        for tensor, dim, positions in positions_of(network, path, side, lost):
            gone.setdefault((tensor, dim), set()).update(positions)
    return {where: tuple(sorted(positions)) for where, positions in gone.items()}


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


def _silenced(tensor: Tensor, by_dim: Mapping[int, tuple[int, ...]]) -> Tensor:
    silent = tensor.clone()
    for dim, positions in by_dim.items():
        silent.index_fill_(dim, torch.tensor(positions, dtype=torch.int64, device=tensor.device), 0)
    return silent


def _format_of(tensor: Tensor) -> torch.memory_format:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


@dataclass(frozen=True)
class Pruner:
    """The way from a policy to the pruned copy of one dense network.

    Attributes:
        network: the dense network; never modified.
        space: its groups and the channel counts that exist.
        scores: criterion → group → importance scores of shape ``(num_channels,)``.
    """

    network: nn.Module
    space: SearchSpace
    scores: ImportanceScores

    def cut(self, policy: PruningPolicy) -> dict[str, KeptChannels]:
        """Return the plan of a policy: what stays of every module that it cuts.

        Raises:
            ModelError: if the policy names an unknown group, or a criterion without scores for it.
        """
        removed = removed_channels(self.space, policy, self.scores)
        return plan_cut(self.network, self.space.groups, removed, policy.dropped_blocks)

    def prune(self, policy: PruningPolicy) -> nn.Module:
        """Return the pruned network: a smaller copy on the dense network's device. Masks are not applied here.

        Raises:
            ModelError: as :meth:`cut`.
        """
        return shrink(self.network, self.cut(policy))
