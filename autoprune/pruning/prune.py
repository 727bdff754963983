"""Cut channels out of a network: physical surgery from kept indices, and its masked twin.

:func:`shrink` makes a smaller copy; :func:`zeroed` makes a copy of the same size with the same channels
zeroed. In eval mode both compute the same function: that is the oracle by which every group is proved
(``groups.py``) and every criterion tested. Nothing here needs torch-pruning: kept indices alone rebuild
a picked network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.errors import ModelError
from autoprune.policy import PruningPolicy
from autoprune.space import PruningGroup, SearchSpace

Scores = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class KeptIndices:
    """Say which channels of one module stay.

    Attributes:
        out: indices of the channels it produces, ascending; ``None`` for all.
        inputs: indices of the channels it reads, ascending; ``None`` for all.
    """

    out: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, list[int]]:
        """Return plain types; sides that stay whole are left out."""
        sides = {"out": self.out, "in": self.inputs}
        return {side: list(indices) for side, indices in sides.items() if indices is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeptIndices:
        """Return what :meth:`to_json` wrote."""
        sides = {side: tuple(int(i) for i in indices) for side, indices in data.items()}
        return cls(sides.get("out"), sides.get("in"))


Cut = Mapping[str, KeptIndices]


def is_depthwise(module: nn.Module) -> bool:
    """Return whether every output channel of a convolution reads exactly one input channel, one to one."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def why_uncuttable(module: nn.Module) -> str | None:
    """Return why this kind of module cannot be cut, in words, or ``None`` if it can."""
    match module:
        case _ConvTransposeNd():
            return "a transposed convolution is not supported yet"
        case _ConvNd() if module.groups > 1 and not is_depthwise(module):
            return f"a grouped convolution ({module.groups} groups) is not supported yet"
        case _ConvNd() | nn.Linear() | _BatchNorm():
            return None
        case nn.PReLU() if module.num_parameters == 1:
            return None
        case _:
            return f"a {type(module).__name__} cannot be cut yet"


def channels_of(module: nn.Module, side: str) -> int:
    """Return how many channels a cuttable module has on a side."""
    match module:
        case _ConvNd():
            return module.out_channels if side == "out" else module.in_channels
        case nn.Linear():
            return module.out_features if side == "out" else module.in_features
        case _BatchNorm():
            return module.num_features
        case _:
            raise ModelError(f"a {type(module).__name__} has no channels that can be cut")


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
    for name, kept in space.kept(policy).items():
        count = space.by_name[name].num_channels - kept
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
    network: nn.Module, groups: Iterable[PruningGroup], removed: Mapping[str, Iterable[int]]
) -> dict[str, KeptIndices]:
    """Return module path → kept indices once these channels of these groups are gone.

    Args:
        network: the dense network; only its shapes are read.
        groups: the groups that ``removed`` may name.
        removed: group name → channels to remove.
    """
    gone: dict[tuple[str, str], set[int]] = {}
    for group in groups:
        channels = tuple(removed.get(group.name, ()))
        for member in group.members if channels else ():
            indices = gone.setdefault((member.module, member.side), set())
            for channel in channels:
                indices.update(member.of(channel))
    cut: dict[str, KeptIndices] = {}
    for path in dict.fromkeys(module for module, _ in gone):
        module = network.get_submodule(path)
        sides = [
            tuple(i for i in range(channels_of(module, side)) if i not in gone[path, side])
            if (path, side) in gone
            else None
            for side in ("out", "in")
        ]
        cut[path] = KeptIndices(*sides)
    return cut


def shrink(network: nn.Module, cut: Cut) -> nn.Module:
    """Return a smaller copy of a network that has only the kept channels; the original is not touched.

    Raises:
        ModelError: if a module is missing, or its shape does not have the indices.
    """
    small = copy.deepcopy(network)
    for path, kept in cut.items():
        module = _submodule(small, path)
        _check_indices(path, module, kept)
        _cut_module(module, kept, _take)
    return small


def zeroed(network: nn.Module, cut: Cut) -> nn.Module:
    """Return a copy of the same size with the weights of every channel that ``cut`` would remove set to zero."""
    masked = copy.deepcopy(network)
    for path, kept in cut.items():
        _cut_module(_submodule(masked, path), kept, _zero, resize=False)
    return masked


def _submodule(network: nn.Module, path: str) -> nn.Module:
    try:
        return network.get_submodule(path)
    except AttributeError:
        raise ModelError(f"the network has no module {path!r}; the cut was made for another network") from None


def _check_indices(path: str, module: nn.Module, kept: KeptIndices) -> None:
    for side, indices in (("out", kept.out), ("in", kept.inputs)):
        if indices is None:
            continue
        channels = channels_of(module, side)
        if not indices or not 0 <= indices[0] <= indices[-1] < channels:
            raise ModelError(
                f"{path!r} has {channels} {side} channels and cannot keep {len(indices)} of them up to "
                f"{max(indices, default=-1)}; the cut was made for another network"
            )


def _take(tensor: Tensor, dim: int, indices: tuple[int, ...]) -> Tensor:
    index = torch.tensor(indices, device=tensor.device)
    return tensor.index_select(dim, index).contiguous(memory_format=_format_of(tensor))


def _format_of(tensor: Tensor) -> torch.memory_format:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _zero(tensor: Tensor, dim: int, indices: tuple[int, ...]) -> Tensor:
    mask = torch.zeros(tensor.shape[dim], device=tensor.device, dtype=tensor.dtype)
    mask[list(indices)] = 1
    return tensor * mask.view([-1 if d == dim else 1 for d in range(tensor.dim())])


def _cut_module(
    module: nn.Module, kept: KeptIndices, edit: Callable[[Tensor, int, tuple[int, ...]], Tensor], resize: bool = True
) -> None:
    """Apply ``edit`` to every tensor of a module along the dimensions that lose channels."""
    if kept.out is not None:
        names = ("weight", "bias", *(("running_mean", "running_var") if isinstance(module, _BatchNorm) else ()))
        for name in names if resize else ("weight", "bias"):
            _replace(module, name, 0, kept.out, edit)
    if kept.inputs is not None and not is_depthwise(module):
        _replace(module, "weight", 1, kept.inputs, edit)
    if resize:
        _resize(module, kept)


def _replace(
    module: nn.Module,
    name: str,
    dim: int,
    indices: tuple[int, ...],
    edit: Callable[[Tensor, int, tuple[int, ...]], Tensor],
) -> None:
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    edited = edit(tensor.detach(), dim, indices)
    if isinstance(tensor, nn.Parameter):
        edited = nn.Parameter(edited, requires_grad=tensor.requires_grad)
    setattr(module, name, edited)


def _resize(module: nn.Module, kept: KeptIndices) -> None:
    """Write the new channel counts into the module's own attributes."""
    match module:
        case _ConvNd() if is_depthwise(module):
            if kept.out is not None:
                module.groups = module.in_channels = module.out_channels = len(kept.out)
        case _ConvNd():
            module.out_channels = module.out_channels if kept.out is None else len(kept.out)
            module.in_channels = module.in_channels if kept.inputs is None else len(kept.inputs)
        case nn.Linear():
            module.out_features = module.out_features if kept.out is None else len(kept.out)
            module.in_features = module.in_features if kept.inputs is None else len(kept.inputs)
        case _BatchNorm():
            module.num_features = module.num_features if kept.out is None else len(kept.out)


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

    def cut(self, policy: PruningPolicy) -> dict[str, KeptIndices]:
        """Return the kept indices of every module that a policy cuts.

        Raises:
            ModelError: if the policy names an unknown group, or a criterion without scores for it.
        """
        removed = removed_channels(self.space, policy, self.scores)
        return cut_of(self.network, self.space.groups, removed)

    def prune(self, policy: PruningPolicy) -> nn.Module:
        """Return the pruned network: a smaller copy on the dense network's device.

        Raises:
            ModelError: as :meth:`cut`.
        """
        return shrink(self.network, self.cut(policy))
