"""Which weights a mask policy zeroes: :func:`build_masks`, on the network that channel pruning left.

A weight is read as *rows*: one row holds what one output reads, ``in_channels / groups × kernel`` numbers. The pattern
``"weight"`` zeroes any weights of a layer, ``"2:4"`` (``two_of_four.py``) two of every four along a row. A layer that
does not allow the pattern stays dense and is named with the reason.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoprune.core.counts import MASK_UNITS, masked_zeros
from autoprune.core.policy import MaskPolicy
from autoprune.core.space import MaskSpace
from autoprune.errors import ModelError, UnknownNameError
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.masks.two_of_four import TWO_OF_FOUR, lowest_of_each_row, lowest_two_of_four
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.masks.weight_scores import CRITERIA, Batches, LossOf, cross_entropy


def build_masks(
    network: nn.Module, policy: MaskPolicy, calibration: Batches | None = None, loss_of: LossOf = cross_entropy
) -> Masks:
    """Choose which weights of a network, as it is now, become zero; the network is not touched.

    Pattern ``"weight"`` zeroes exactly ``masked_zeros(weights, units)`` of a layer, for the units of 1/64 nearest to
    the policy. They are the lowest of the layer. By wanda every row loses equally many; if they do not divide evenly,
    the rest go one per row, to the rows whose next weight scores lowest. Of equal scores the lower index goes first.
    Pattern ``"2:4"`` zeroes the two lowest of every four along a row.

    Args:
        network: with channels cut and blocks dropped already, on any device.
        policy: layers that the network no longer has, as in a dropped block, are skipped.
        calibration: (inputs, labels) of the training split; only ``"gradient"`` and ``"wanda"`` look at them.
        loss_of: (network, inputs, labels) → the mean loss over a batch; only ``"gradient"`` asks for it.

    Raises:
        UnknownNameError: if the criterion is unknown.
        ModelError: if the criterion needs data and there is none, or its scores are not finite.
    """
    if policy.criterion not in CRITERIA:
        raise UnknownNameError("mask criterion", policy.criterion, CRITERIA)
    able, there = maskable_layers(network, policy.pattern), {path for path, _ in network.named_modules()}
    units = {path: _units(policy.pattern, s) for path, s in policy.layers.items() if path in there}
    wanted = [path for path, kept in units.items() if kept < MASK_UNITS]
    left = {path: able.left.get(path, "it has no weights of its own") for path in wanted if path not in able.layers}
    layers = [path for path in wanted if path in able.layers]
    scores = CRITERIA[policy.criterion](network, layers, calibration or (), loss_of) if layers else {}
    left.update({path: "the calibration batches never went through it" for path in layers if path not in scores})
    tensors = {}
    for path, found in scores.items():
        if not torch.isfinite(found).all():
            raise ModelError(f"mask criterion {policy.criterion!r} gave NaN or infinite scores for layer {path!r}")
        tensors[f"{path}.weight"] = _stays(found, policy, units[path])
    return Masks(tensors, left)


def _units(pattern: str, sparsity: float) -> int:
    """Return the units of 1/64 that stay, as :meth:`SearchSpace.nearest` does.

    >>> _units("weight", 0.5), _units("weight", 0.999), _units("2:4", 0.5), _units("2:4", 0.1)
    (32, 1, 32, 64)
    """
    exact = MASK_UNITS * (1 - sparsity)
    return min(MaskSpace(pattern, (), (), 1.0).units, key=lambda units: (abs(units - exact), -units))


def _stays(scores: Tensor, policy: MaskPolicy, units: int) -> Tensor:
    """Return the mask of one layer, from its scores: true for the weights that stay."""
    rows = scores.flatten(1)
    zeros = masked_zeros(rows.numel(), units)
    if policy.pattern == TWO_OF_FOUR:
        removed = lowest_two_of_four(rows)
    elif policy.criterion == "wanda":
        removed = _lowest_by_row(rows, zeros)
    else:
        removed = lowest_of_each_row(rows.reshape(1, -1), zeros)
    return ~removed.reshape(scores.shape)


def _lowest_by_row(scores: Tensor, count: int) -> Tensor:
    """Return a bool tensor that is true at ``count`` scores: each row's lowest, of equal number but for one."""
    share, rest = divmod(count, scores.shape[0])
    chosen = lowest_of_each_row(scores, share)
    if rest:
        following = torch.argsort(scores, dim=1, stable=True)[:, share]
        rows = torch.argsort(scores.gather(1, following[:, None]).flatten(), stable=True)[:rest]
        chosen[rows, following[rows]] = True
    return chosen
