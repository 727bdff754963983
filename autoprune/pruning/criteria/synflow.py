"""The criterion that needs neither data nor labels: how much flow of a linearised network passes through a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from autoprune.core.channel_groups import PruningGroup
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.criteria.channel_hooks import channel_dim
from autoprune.pruning.criteria.channel_parameters import channel_sums
from autoprune.pruning.importance import Calibration, scores_jointly


@scores_jointly
def synflow(groups: Sequence[PruningGroup], network: nn.Module, calibration: Calibration) -> Mapping[str, Tensor]:
    """Take the share of the synaptic flow that passes through each channel: Σ |∂R/∂w · w| / R, in [0, 1] per layer.

    ``R`` is the sum of the outputs for an input of ones, after all weights have been replaced by their magnitudes and
    all biases by zero; computed in float64 on the CPU, because ``R`` grows exponentially with depth. Divided by
    ``R``, which changes no order, the scores fit into float32.

    A norm becomes multiplication by constants, so that no statistics of an input enter: ``|γ| / √(σ² + ε)`` for
    one that holds running statistics (that is the weight it stands for once folded into the layer before), ``|γ|`` for
    the others; shifts are dropped. The theory holds for networks of ReLUs; functions that saturate, such as
    softmax, pass little or no flow.

    Source: Tanaka et al. 2020, Pruning Neural Networks without any Data by Iteratively Conserving Synaptic Flow,
        section 5, algorithm 1, with one iteration.

    Raises:
        ModelError: if no input shape is known, the network does not read numbers, or the flow is zero or infinite.
    """
    shape = _input_shape(calibration)
    twin = _magnitudes(network)
    with torch.enable_grad():
        flow = twin(torch.ones(1, *shape, dtype=torch.float64)).sum()
    if not torch.isfinite(flow) or not flow > 0:
        raise ModelError(
            f"synflow: the flow through this network is {float(flow.detach()):g}, and has to be positive and "
            f"finite; choose another importance criterion"
        )
    torch.autograd.backward(flow)

    def share(parameter: nn.Parameter) -> Tensor | None:
        return None if parameter.grad is None else (parameter.grad * parameter.detach()).abs() / flow.detach()

    return {group.name: channel_sums(group, twin, share) for group in groups}


def _input_shape(calibration: Calibration) -> tuple[int, ...]:
    if calibration.batches:
        inputs = Inputs.of(calibration.batches[0][0])
        if not (inputs.shape and inputs.has_real_numbers):
            raise ModelError(
                f"synflow feeds one input of ones, and this network reads {inputs}; choose another importance criterion"
            )
        return inputs.shape
    if calibration.input_shape is None:
        raise ModelError("synflow needs the shape of an input; give Calibration batches or an input_shape")
    return calibration.input_shape


def _magnitudes(network: nn.Module) -> nn.Module:
    """Return a linear copy: magnitudes for weights, zero for biases, constant factors for norms."""
    twin = copy_network(network).cpu().double().eval()
    for module in twin.modules():
        if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)):
            _make_constant(module)
    for name, parameter in twin.named_parameters():
        if parameter.is_floating_point():
            is_bias = "bias" in name.rpartition(".")[2]
            parameter.detach().copy_(torch.zeros_like(parameter) if is_bias else parameter.detach().abs())
            parameter.requires_grad_().grad = None
    return twin


def _make_constant(norm: nn.Module) -> None:
    """Turn a norm into a multiplication by its weight, with the running deviation, if it has one, taken into it."""
    variance: Tensor | None = getattr(norm, "running_var", None)
    deviation: Tensor | None = None if variance is None else (variance + norm.eps).sqrt()  # type: ignore[operator]
    factor: Tensor | None = norm.weight  # type: ignore[assignment]
    if factor is None:
        factor = None if deviation is None else 1 / deviation
    elif deviation is not None:
        factor.detach().div_(deviation)
    dim = channel_dim(norm)

    def forward(x: Tensor) -> Tensor:
        if factor is None:
            return x
        return x * (factor if dim == -1 else factor.view(-1, *[1] * (x.dim() - 2)))

    norm.forward = forward
