"""Criteria that read the weights alone: how large a channel's filters are, and how unlike the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.criteria.channel_parameters import filters
from autoprune.pruning.importance import Calibration, NotApplicable


def l1(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the absolute weights of the filters that produce each channel.

    Raises:
        NotApplicable: if only norms or biases produce the channels.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, section 3.1.
    """
    return filters(group, network).abs().sum(1)


def l2(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Take the Euclidean norm of the filters that produce each channel.

    Raises:
        NotApplicable: if only norms or biases produce the channels.

    Source: Li et al. 2017, section 4.4 (the l2 variant); over coupled layers Fang et al. 2023, DepGraph, section 3.3.
    """
    norms: Tensor = torch.linalg.vector_norm(filters(group, network), dim=1)
    return norms


def lamp(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Divide each channel's squared norm by the sum over all channels whose norm is not smaller: in (0, 1].

    The order within a group is that of ``l2``; what it adds is a scale on which groups can be compared. The
    paper scores single weights within a layer; here a channel is the unit and its group the layer. Channels of
    equal norm have equal scores.

    Raises:
        NotApplicable: if only norms or biases produce the channels.

    Source: Lee et al. 2021, Layer-adaptive Sparsity for the Magnitude-based Pruning, the LAMP score in section 2.1.
    """
    squares = filters(group, network).double().square().sum(1)
    not_smaller = (squares >= squares[:, None]).double() @ squares
    return squares / not_smaller.clamp_min(torch.finfo(torch.float64).tiny)


def fpgm(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the distances of each channel's filters to all others: what is near the geometric median can be replaced.

    Raises:
        NotApplicable: if only norms or biases produce the channels.

    Source: He et al. 2019, Filter Pruning via Geometric Median, eq. 4.
    """
    found = filters(group, network)
    # differences, not products: filters that are nearly equal are what this criterion is about
    return torch.cdist(found, found, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def bn_scale(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the absolute batch-norm scales of each channel.

    Raises:
        NotApplicable: if no batch norm scales the group's channels.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, section 3.
    """
    total = torch.zeros(group.num_channels)
    norms = 0
    for member in group.producers():
        module = None if member.side.startswith("dim") else network.get_submodule(member.module)
        if isinstance(module, _BatchNorm) and module.affine:
            scales = module.weight.detach().abs().float().cpu()[list(member.indices)]
            total += scales.view(group.num_channels, member.width).sum(1)
            norms += 1
    if not norms:
        raise NotApplicable("no batch norm scales its channels")
    return total
