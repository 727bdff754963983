"""Rank the channels of a group: importance criteria, and the one pass that scores them all.

A criterion is a function ``(group, network, calibration) -> scores`` with one score per channel, larger
= keep. One that needs gradients is marked with :func:`uses_gradients` and is then called once per
calibration batch, with ``.grad`` filled, and its scores are averaged. A criterion that makes no sense
for a group raises :class:`NotApplicable`.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.builtins import IMPORTANCES
from autoprune.errors import AutopruneError, ModelError
from autoprune.space import Member, PruningGroup


@dataclass(frozen=True)
class Calibration:
    """Hold what a criterion may look at besides the weights.

    Attributes:
        batches: (images, labels) of the training split, on the network's device.
        seed: for criteria that draw random numbers.
    """

    batches: Sequence[tuple[Tensor, Tensor]]
    seed: int = 0


class Importance(Protocol):
    """Score the channels of one group."""

    def __call__(self, group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
        """Return scores of shape ``(num_channels,)``, finite, larger = keep.

        Raises:
            NotApplicable: if the criterion makes no sense for this group.
        """
        ...  # pragma: no cover


class NotApplicable(AutopruneError):
    """Say that a criterion makes no sense for a group, with the reason."""


_F = TypeVar("_F", bound=Callable[..., Tensor])


def uses_gradients(criterion: _F) -> _F:
    """Mark a criterion that reads ``parameter.grad`` of the cross-entropy loss on one batch."""
    criterion.uses_gradients = True  # type: ignore[attr-defined]
    return criterion


def l1(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the absolute weights of the filters that produce each channel.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.1.
    """
    return _filters(group, network).abs().sum(1)


def l2(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Take the Euclidean norm of the filters that produce each channel.

    Source: Li et al. 2017, section 4.4 (the l2 variant); over coupled layers Fang et al. 2023, DepGraph, section 3.3.
    """
    norms: Tensor = torch.linalg.vector_norm(_filters(group, network), dim=1)
    return norms


def fpgm(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the distances of each channel's filters to all others: what is near the geometric median can be replaced.

    Source: He et al. 2019, Filter Pruning via Geometric Median, eq. 4.
    """
    filters = _filters(group, network)
    return torch.cdist(filters, filters).sum(1)


def bn_scale(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the absolute batch-norm scales of each channel.

    Source: Liu et al. 2017, Network Slimming, section 3.

    Raises:
        NotApplicable: if no batch norm scales the group's channels.
    """
    total = torch.zeros(group.num_channels)
    norms = 0
    for member in group.producers():
        module = network.get_submodule(member.module)
        if isinstance(module, _BatchNorm) and module.affine:
            total += _per_channel(module.weight.detach().abs(), member).sum(1).float().cpu()
            norms += 1
    if not norms:
        raise NotApplicable("no batch norm scales its channels")
    return total


@uses_gradients
def taylor(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Estimate the squared change of the loss when a channel goes, to first order: (Σ g·w)².

    The sum runs over all weights that produce the channel, norms included.

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8.
    """
    total = torch.zeros(group.num_channels)
    for member in group.producers():
        for parameter in network.get_submodule(member.module).parameters(recurse=False):
            if parameter.grad is not None and parameter.dim() and parameter.shape[0] > max(member.indices):
                change = (parameter.grad * parameter.detach()).flatten(1 if parameter.dim() > 1 else 0)
                change = change.sum(1) if change.dim() > 1 else change
                total += _per_channel(change, member).sum(1).float().cpu()
    return total.square()


def random(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Draw uniform scores: the control that every criterion has to beat.

    The draw depends on the seed and the group's name only.
    """
    seed = zlib.crc32(f"{calibration.seed}:{group.name}".encode())
    return torch.rand(group.num_channels, generator=torch.Generator().manual_seed(seed))


def score_groups(
    network: nn.Module, groups: Sequence[PruningGroup], names: Iterable[str], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    """Score every group by every criterion, once; the network is not touched.

    Args:
        network: the dense network; scored in eval mode.
        groups: what to score.
        names: criteria, as the registry knows them.
        calibration: batches for the criteria that need data.

    Returns:
        criterion → group name → float32 scores of shape ``(num_channels,)`` on the CPU; a group that a
        criterion does not apply to is missing from it.

    Raises:
        UnknownNameError: if a criterion is unknown.
        ModelError: if a criterion fails, or returns scores of a wrong shape or that are not finite.
    """
    criteria: dict[str, Importance] = {name: IMPORTANCES.get(name) for name in names}
    twin = copy.deepcopy(network).float().eval()
    by_gradient = {name: c for name, c in criteria.items() if getattr(c, "uses_gradients", False)}
    static = {name: c for name, c in criteria.items() if name not in by_gradient}
    scores = _score_all(static, twin, groups, calibration)
    scores.update(_score_by_gradient(by_gradient, twin, groups, calibration))
    return {name: scores[name] for name in criteria}


def _score_by_gradient(
    criteria: Mapping[str, Importance], twin: nn.Module, groups: Sequence[PruningGroup], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    """Average the scores over the batches, each with its own gradient."""
    if not criteria:
        return {}
    if not calibration.batches:
        raise ModelError(
            f"the criteria {', '.join(criteria)} need data, and there is no calibration batch; "
            f"raise space.calibration_images"
        )
    total: dict[str, dict[str, Tensor]] = {}
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    for images, labels in calibration.batches:
        twin.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(twin(images), labels))
        batch = Calibration([(images, labels)], calibration.seed)
        for name, scores in _score_all(criteria, twin, groups, batch).items():
            mine = total.setdefault(name, {})
            for group, values in scores.items():
                mine[group] = mine.get(group, torch.zeros_like(values)) + values / len(calibration.batches)
    return total


def _score_all(
    criteria: Mapping[str, Importance], twin: nn.Module, groups: Sequence[PruningGroup], calibration: Calibration
) -> dict[str, dict[str, Tensor]]:
    scores: dict[str, dict[str, Tensor]] = {}
    for name, criterion in criteria.items():
        scores[name] = {}
        for group in groups:
            try:
                scores[name][group.name] = _checked(name, group, _call(name, criterion, group, twin, calibration))
            except NotApplicable:
                continue
    return scores


def _call(name: str, criterion: Importance, group: PruningGroup, twin: nn.Module, calibration: Calibration) -> Tensor:
    try:
        return criterion(group, twin, calibration)
    except AutopruneError:
        raise
    except Exception as error:  # a third party's criterion may raise anything
        raise ModelError(
            f"importance criterion {name!r} failed on group {group.name!r} with {type(error).__name__}: {error}"
        ) from error


def _checked(name: str, group: PruningGroup, scores: Tensor) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != (group.num_channels,):
        given = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(
            f"importance criterion {name!r} returned {given} for group {group.name!r}; "
            f"expected one score per channel: a tensor of shape ({group.num_channels},)"
        )
    scores = scores.detach().float().cpu()
    if not torch.isfinite(scores).all():
        raise ModelError(f"importance criterion {name!r} returned NaN or infinite scores for group {group.name!r}")
    return scores


def _filters(group: PruningGroup, network: nn.Module) -> Tensor:
    """Return the weights that produce each channel, over all convolutions and linear layers: (num_channels, …)."""
    rows = []
    for member in group.producers():
        module = network.get_submodule(member.module)
        if isinstance(module, (_ConvNd, nn.Linear)):
            rows.append(_per_channel(module.weight.detach().flatten(1), member).flatten(1))
    return torch.cat(rows, 1).float().cpu()


def _per_channel(values: Tensor, member: Member) -> Tensor:
    """Gather a module's values by the group's channels: (module channels, …) → (num_channels, width, …)."""
    indices = torch.tensor(member.indices, device=values.device)
    return values[indices].reshape(-1, member.width, *values.shape[1:])
