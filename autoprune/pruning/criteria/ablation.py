"""The criterion that measures instead of estimating: set a channel to zero and see what the loss does."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from autoprune.pruning.criteria.producers import producing
from autoprune.pruning.criteria.reading import Place, edited, places_of
from autoprune.pruning.importance import Calibration, scores_jointly, uses_data
from autoprune.pruning.layers import axes_of
from autoprune.space import PruningGroup

IMAGES = 32
"""Training images that are looked at, the first ones: one forward pass for each of them and each channel."""

AT_ONCE = 256
"""Images times channels in one forward pass, which bounds the memory."""

Loss = Callable[[nn.Module], Tensor]


@scores_jointly
@uses_data
def ablation(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Measure the rise of the calibration loss when a channel alone is set to zero; negative if the loss falls.

    The channel is zeroed where it is read, in many forward passes batched into one. Where that would miss something,
    because the module that produces it reads it itself (recurrent units, heads of attention) or hides it, all
    that produces the channel is set to zero instead, one forward pass at a time. Looks at :data:`IMAGES` images.

    Source: the oracle of Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient
        Inference, section 2.1 (signed); on training images, so that validation stays unseen.
    """
    batches = _first(calibration.batches, IMAGES)
    rises = {group.name: torch.zeros(group.num_channels) for group in groups}
    images = sum(len(inputs) for inputs, _ in batches)
    with torch.no_grad():
        for inputs, labels in batches:

            def loss(net: nn.Module, inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                return calibration.loss(net(inputs), labels)

            dense, seen = _dense(groups, network, loss)
            for group in groups:
                at_once = max(1, AT_ONCE // len(inputs))
                losses = _losses(group, network, loss, seen, at_once)
                rises[group.name] += (losses - dense).cpu() * len(inputs) / images
    return rises


def _first(batches: Sequence[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    """Return the first ``count`` examples, still in batches."""
    found = []
    for inputs, labels in batches:
        if count > 0:
            found.append((inputs[:count], labels[:count]))
            count -= len(inputs)
    return found


def _dense(groups: Sequence[PruningGroup], network: nn.Module, loss: Loss) -> tuple[Tensor, set[Place]]:
    """Return the loss with all channels, and the places that the forward pass came by."""
    seen = set()

    def look(place: Place, values: Tensor) -> Tensor:
        seen.add(place)
        return values

    with edited(network, [place for group in groups for place in places_of(group, network)], look):
        return loss(network), seen


def _losses(group: PruningGroup, network: nn.Module, loss: Loss, seen: set[Place], at_once: int) -> Tensor:
    """Return the loss without each channel in turn, ``(num_channels,)``."""
    places = places_of(group, network)
    if not places or not seen.issuperset(places) or _is_read_inside(group, network):
        return torch.stack([loss(_without(group, network, channel)) for channel in range(group.num_channels)])
    return _losses_by_mask(group, network, loss, places, at_once)


def _is_read_inside(group: PruningGroup, network: nn.Module) -> bool:
    """Return whether a module that produces the channels reads them too, before anyone else sees them."""
    producers = [member for member in group.producers() if not member.side.startswith("dim")]
    return any(
        not axis.produces for member in producers for axis in axes_of(network.get_submodule(member.module), member.side)
    )


def _losses_by_mask(
    group: PruningGroup, network: nn.Module, loss: Loss, places: Sequence[Place], at_once: int
) -> Tensor:
    """Multiply what is read by 0 for one channel and by 1 for the others, for every channel."""
    lookup = {place: _lookup(place, group.num_channels) for place in places}

    def without(keep: Tensor) -> Tensor:
        def mask(place: Place, values: Tensor) -> Tensor:
            factors = torch.cat([keep, keep.new_ones(1)])[lookup[place].to(keep.device)]
            shape = [1] * values.dim()
            shape[place.dim] = place.size
            return values * factors.view(shape)

        with edited(network, places, mask):
            return loss(network)

    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    masks = 1 - torch.eye(group.num_channels, device=device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some operation is batched by a loop
            # what comes before the first reader does not depend on the mask and is computed once
            batched: Tensor = torch.vmap(without, chunk_size=at_once)(masks)
            return batched
    except RuntimeError:  # an operation that cannot be batched at all, or a forward pass that looks at values
        return torch.stack([without(keep) for keep in masks])


def _lookup(place: Place, num_channels: int) -> Tensor:
    """Return the group's channel of each of the module's channels, ``num_channels`` for those of other groups."""
    found = torch.full((place.size,), num_channels)
    found[list(place.member.indices)] = torch.arange(num_channels).repeat_interleave(place.member.width)
    return found


def _without(group: PruningGroup, network: nn.Module, channel: int) -> nn.Module:
    """Return a copy in which nothing produces the channel."""
    twin = copy.deepcopy(network)
    for slices in producing(group, twin):
        slices.parameter.detach().movedim(slices.dim, 0)[slices.positions[slices.channels == channel]] = 0
    return twin
