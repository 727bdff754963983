"""The criterion that measures instead of estimating: how far the loss rises when a channel is set to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.criteria.channel_hooks import ChannelPlace, edited, places_of
from autoprune.pruning.criteria.channel_parameters import producing
from autoprune.pruning.criteria.forward_replay import Recording
from autoprune.pruning.importance import Calibration, examples_in, scores_jointly, uses_data
from autoprune.pruning.layers.kinds import axes_of

PASSES, LEAST_IMAGES = 2**14, 16
"""Forward passes of one image that all channels together may cost, and the least number of images."""

BATCH = 32
"""Images in one forward pass, which bounds the memory that the recording takes."""

Loss = Callable[[nn.Module], Tensor]


@scores_jointly
@uses_data
def ablation(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Measure the rise of the calibration loss when a channel alone is set to zero; negative if the loss falls.

    The channel is zeroed where it is read, and only what comes after that is computed again. Where this would miss
    something, because the module that produces the channel also reads it (recurrent units, heads of attention)
    or hides it, everything that produces it is set to zero instead. Norms over channels still count it as a zero.

    One forward pass per channel and image, so it uses only the first :data:`PASSES` / channels images, but at
    least :data:`LEAST_IMAGES`: 16 for ResNet-56 with 1120 channels, 256 for a network with 64.

    Source: the oracle of Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient
        Inference, section 2.1 (signed); on training images, so that validation stays unseen.
    """
    channels = sum(group.num_channels for group in groups)
    batches = _first(calibration.batches, max(LEAST_IMAGES, PASSES // max(1, channels)))
    rises = {group.name: torch.zeros(group.num_channels) for group in groups}
    images = sum(examples_in(inputs) for inputs, _ in batches)
    for inputs, labels in batches:

        def loss(net: nn.Module, inputs: Any = inputs, labels: Any = labels) -> Tensor:
            return calibration.loss_of(net, inputs, labels)

        with torch.no_grad():
            for name, rise in _rises(groups, network, loss).items():
                rises[name] += rise.cpu() * examples_in(inputs) / images
    return rises


def _first(batches: Sequence[tuple[Any, Any]], count: int) -> list[tuple[Any, Any]]:
    """Return the first ``count`` examples, in batches of at most :data:`BATCH`; what cannot be split stays whole."""
    found = []
    for inputs, labels in batches:
        if count <= 0:
            break
        size = Inputs.of((inputs, labels)).size  # None if they, or their labels, cannot be told apart
        take = examples_in(inputs) if size is None else min(size, count)
        count -= take
        if size is None:
            found.append((inputs, labels))
            continue
        for start in range(0, take, BATCH):
            cut = partial(_part, start=start, end=min(take, start + BATCH))
            found.append((map_tensors(inputs, cut), map_tensors(labels, cut)))
    return found


def _part(tensor: Tensor, start: int, end: int) -> Tensor:
    return tensor[start:end]


def _rises(groups: Sequence[PruningGroup], network: nn.Module, loss: Loss) -> dict[str, Tensor]:
    """Return group → rise of the loss on one batch without each channel, ``(num_channels,)``."""
    places = {group.name: places_of(group, network) for group in groups}
    recording, seen = Recording(network), set()

    def look(place: ChannelPlace, values: Tensor) -> Tensor:
        seen.add(place)
        return values

    with recording.record(), edited(network, [place for found in places.values() for place in found], look):
        dense = loss(network)
    rises = {}
    for group in groups:
        found = places[group.name]
        if not found or not seen.issuperset(found) or _is_read_inside(group, network):
            losses = [loss(_without(group, network, channel)) for channel in range(group.num_channels)]
        else:
            losses = _losses_by_mask(group, network, loss, found, recording)
        rises[group.name] = torch.stack(losses) - dense
    return rises


def _is_read_inside(group: PruningGroup, network: nn.Module) -> bool:
    """Return whether a module that produces the channels reads them too, before anyone else sees them."""
    producers = [member for member in group.producers() if not member.side.startswith("dim")]
    return any(
        not axis.produces for member in producers for axis in axes_of(network.get_submodule(member.module), member.side)
    )


def _losses_by_mask(
    group: PruningGroup, network: nn.Module, loss: Loss, places: Sequence[ChannelPlace], recording: Recording
) -> list[Tensor]:
    """Return the loss with each channel in turn multiplied by zero in these places."""
    readers = [network.get_submodule(place.member.module) for place in places]
    losses = []
    for channel in range(group.num_channels):

        def mask(place: ChannelPlace, values: Tensor, channel: int = channel) -> Tensor:
            index = torch.tensor(place.member.of(channel), device=values.device)
            return values.index_fill(place.dim, index, 0)

        with recording.replay(readers), edited(network, places, mask):
            losses.append(loss(network))
    return losses


def _without(group: PruningGroup, network: nn.Module, channel: int) -> nn.Module:
    """Return a copy in which nothing produces the channel."""
    twin = copy_network(network)
    for slices in producing(group, twin):
        slices.parameter.detach().movedim(slices.dim, 0)[slices.positions[slices.channels == channel]] = 0
    return twin
