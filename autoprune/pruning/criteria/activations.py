"""Criteria by what flows through a channel, as the layers that read it see it.

One forward pass per batch serves all groups. A group with several readers gets the mean over them. A group whose
channels cannot be seen, such as heads of attention, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.criteria.channel_hooks import ChannelPlace, edited, per_channel, places_of
from autoprune.pruning.importance import Calibration, scores_jointly, uses_data


@scores_jointly
@uses_data
def activation(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Take the mean magnitude of each channel over examples and positions.

    Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2
        ("activation"); magnitudes, because not every reader stands behind a ReLU.
    """
    return _means(groups, network, calibration, torch.abs)


@scores_jointly
@uses_data
def apoz(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Take the share of a channel's activations that are not zero: 1 − APoZ.

    Groups in which nothing is ever exactly zero, as without ReLU, are left out: all channels would score the same.

    Source: Hu et al. 2016, Network Trimming, eq. 1 (the average percentage of zeros).
    """
    shares = _means(groups, network, calibration, lambda values: (values != 0).to(values.dtype))
    return {name: scores for name, scores in shares.items() if (scores < 1).any()}


def _means(
    groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration, measure: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Average ``measure`` over all examples and positions, then over a group's readers: group → ``(num_channels,)``."""
    sums: dict[ChannelPlace, Tensor] = {}
    counts: dict[ChannelPlace, int] = {}

    def look(place: ChannelPlace, values: Tensor) -> Tensor:
        others = [dim for dim in range(values.dim()) if dim != place.dim % values.dim()]
        count = values.numel() // place.size
        means = per_channel(place, measure(values).mean(others).cpu().double()) / place.member.width
        sums[place] = sums.get(place, torch.zeros_like(means)) + means * count
        counts[place] = counts.get(place, 0) + count
        return values

    with torch.no_grad(), edited(network, [p for group in groups for p in places_of(group, network)], look):
        for inputs, _ in calibration.batches:
            Inputs.of(inputs).run(network)
    by_group: dict[str, list[Tensor]] = {}
    for place, total in sums.items():
        by_group.setdefault(place.group, []).append(total / counts[place])
    return {name: torch.stack(found).mean(0) for name, found in by_group.items()}
