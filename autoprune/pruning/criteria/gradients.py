"""Criteria that read one gradient of the loss per batch, over all parameters that produce a channel.

They differ in how gradient ``g`` and weight ``w`` are put together. The sums run over weights, biases and norms alike;
``score_by`` calls each once per batch and averages.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.criteria.channel_parameters import channel_sums
from autoprune.pruning.importance import Calibration, uses_gradients


@uses_gradients
def gradient(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Take the Euclidean norm of the gradient of all that produces each channel: √Σ g².

    The factor of the Taylor criterion that does not look at the weight itself.

    Source: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient Inference, section 2.2
        (the gradient in the first-order term); on parameters instead of activations.
    """
    return _sums(group, network, lambda g, w: g.square()).sqrt()


@uses_gradients
def taylor(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Estimate the squared change of the loss when a channel goes, to first order: (Σ g·w)².

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8.
    """
    return _sums(group, network, lambda g, w: g * w).square()


@uses_gradients
def snip(group: PruningGroup, network: nn.Module, calibration: Calibration) -> Tensor:
    """Sum the connection sensitivities of all that produces each channel: Σ |g·w|.

    Not divided by the network's total, which is the same for all channels.

    Source: Lee et al. 2019, SNIP: Single-shot Network Pruning based on Connection Sensitivity, section 4.1.
    """
    return _sums(group, network, lambda g, w: (g * w).abs())


def _sums(group: PruningGroup, network: nn.Module, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Sum ``combine(gradient, weight)`` per channel; what the loss does not depend on adds nothing."""

    def values_of(parameter: nn.Parameter) -> Tensor | None:
        return None if parameter.grad is None else combine(parameter.grad, parameter.detach())

    return channel_sums(group, network, values_of)
