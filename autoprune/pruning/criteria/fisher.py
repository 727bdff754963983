"""The Fisher criterion: how much each example's loss would change, squared before the examples are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.criteria.channel_hooks import ChannelPlace, edited, per_channel, places_of
from autoprune.pruning.importance import Calibration, backward_in_eval, examples_in, scores_jointly, uses_data


@scores_jointly
@uses_data
def fisher(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Estimate the rise of the loss when a channel goes, to second order with the diagonal of the Fisher information.

    For every example ``n``, ``g_n = Σ a · ∂L_n/∂a`` over the channel's activations ``a`` as all its readers see them;
    the score is ``Σ_n g_n² / (2 N)``. Unlike ``taylor``, examples that pull in opposite directions do not cancel. One
    backward pass per batch serves all groups. Groups whose channels cannot be seen, and those whose readers mix the
    examples of a batch, are left out.

    Source: Theis et al. 2018, Faster Gaze Prediction with Dense Networks and Fisher Pruning, section 2.2: the form for
        feature maps, by gradients of activations, rather than the one for single parameters.
    """
    totals: dict[str, Tensor] = {}
    examples = 0
    for inputs, labels in calibration.batches:
        examples += examples_in(inputs)
        for name, changes in _changes(groups, network, inputs, labels, calibration).items():
            added = changes.double().square().sum(0) / 2
            totals[name] = totals.get(name, torch.zeros_like(added)) + added
    return {name: total / examples for name, total in totals.items()}


def _changes(
    groups: Sequence[PruningGroup], network: nn.Module, inputs: Any, labels: Any, calibration: Calibration
) -> dict[str, Tensor]:
    """Return group → each example's first-order change of its loss by each channel, ``(N, num_channels)``."""
    seen: list[tuple[ChannelPlace, Tensor]] = []

    def watch(place: ChannelPlace, values: Tensor) -> Tensor:
        # a copy, so that its gradient is that of this reader alone; the first ones have nothing trainable before them
        mine = values.clone() if values.requires_grad else values.clone().requires_grad_()
        seen.append((place, mine))
        return mine

    places = [place for group in groups for place in places_of(group, network)]
    with backward_in_eval(network), edited(network, places, watch):
        loss = calibration.loss_of(network, inputs, labels)
        gradients = torch.autograd.grad(loss, [mine for _, mine in seen], allow_unused=True) if seen else ()
    changes: dict[str, Tensor] = {}
    mixed = set()
    for (place, values), slopes in zip(seen, gradients, strict=True):
        if slopes is None:
            continue
        by_example = _by_example(place, values.detach() * slopes, network, examples_in(inputs))
        if by_example is None:
            mixed.add(place.group)
            continue
        # the loss is a mean: an example's own slope is N times as large
        added = per_channel(place, by_example).cpu() * examples_in(inputs)
        changes[place.group] = changes.get(place.group, torch.zeros_like(added)) + added
    return {name: found for name, found in changes.items() if name not in mixed}


def _by_example(place: ChannelPlace, values: Tensor, network: nn.Module, examples: int) -> Tensor | None:
    """Sum over all positions of each example: ``(N, module channels)``, ``None`` if examples cannot be told apart."""
    module = network.get_submodule(place.member.module)
    values = values.movedim(place.dim, -1)
    if getattr(module, "batch_first", True) is False and values.dim() == 3:
        values = values.movedim(1, 0)  # (time, N, …), the default of recurrent layers and attention
    if values.shape[0] % examples:
        return None
    return values.reshape(examples, -1, values.shape[-1]).sum(1)
