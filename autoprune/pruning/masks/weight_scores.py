"""The criteria by which masks rank single weights: ``(network, layers, batches)`` → layer → scores, larger = keep.

Scores have the weight's shape, in float32 on the CPU. :data:`CRITERIA` names the criteria; ``build_masks.py`` chooses
weights by their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors
from autoprune.models.copying.copy_network import copy_network

Batches: TypeAlias = Sequence[tuple[Any, Any]]
"""(Inputs as :meth:`Inputs.of` takes them, labels), each of any structure."""

LossOf: TypeAlias = Callable[[nn.Module, Any, Any], Tensor]
"""(network, inputs, labels) → the mean loss over a batch, a scalar."""


def cross_entropy(network: nn.Module, inputs: Any, labels: Any) -> Tensor:
    """Return the loss of a classifier."""
    return F.cross_entropy(Inputs.of(inputs).run(network), labels)


def magnitude(
    network: nn.Module, layers: Sequence[str], batches: Batches, loss_of: LossOf = cross_entropy
) -> dict[str, Tensor]:
    """Score a weight by its absolute value.

    Source: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, section 3.
    """
    return {path: _weight(network, path).abs() for path in layers}


def gradient(
    network: nn.Module, layers: Sequence[str], batches: Batches, loss_of: LossOf = cross_entropy
) -> dict[str, Tensor]:
    """Score a weight by |w·g| for the gradient of the loss, averaged over the batches, in eval mode.

    Source: Lee et al. 2019, SNIP, section 4.1, on trained weights; without its normalisation, which ranks the same.
    """
    twin = _twin(network, "gradient", batches).requires_grad_(True)
    scores = {path: torch.zeros_like(_weight(twin, path)) for path in layers}
    for inputs, labels in batches:
        twin.zero_grad(set_to_none=True)
        with torch.enable_grad():
            torch.autograd.backward(loss_of(twin, _onto(inputs, twin), _onto(labels, twin)))
        for path, total in scores.items():
            slope = twin.get_parameter(f"{path}.weight").grad
            if slope is not None:
                total += (_weight(twin, path) * slope.cpu()).abs() / len(batches)
    return scores


def wanda(
    network: nn.Module, layers: Sequence[str], batches: Batches, loss_of: LossOf = cross_entropy
) -> dict[str, Tensor]:
    """Score a weight by |w|·‖x‖₂ for the input it multiplies; x runs over examples and positions, in eval mode.

    A convolution's input is a channel, whatever the position in the kernel. Layers that are never called have no score.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models, eq. 1.
    """
    twin = _twin(network, "wanda", batches)
    squares: dict[str, Tensor] = {}

    def add(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], path: str) -> None:
        x: Tensor = args[0] if args else kwargs["input"]
        channel = x.dim() - 1 if isinstance(module, nn.Linear) else x.dim() - (module.weight.dim() - 1)
        energy = x.square().movedim(channel, 0).flatten(1).sum(1).cpu().double()
        squares[path] = squares[path] + energy if path in squares else energy

    for path in layers:
        twin.get_submodule(path).register_forward_pre_hook(partial(add, path=path), with_kwargs=True)
    with torch.no_grad():
        for inputs, _ in batches:
            Inputs.of(_onto(inputs, twin)).run(twin)
    norms = {path: squares[path].sqrt().float() for path in layers if path in squares}
    return {path: _weight(twin, path).abs() * _spread(twin.get_submodule(path), norms[path]) for path in norms}


CRITERIA: dict[str, Callable[[nn.Module, Sequence[str], Batches, LossOf], dict[str, Tensor]]] = {
    "magnitude": magnitude,
    "gradient": gradient,
    "wanda": wanda,
}


def _weight(network: nn.Module, path: str) -> Tensor:
    return network.get_parameter(f"{path}.weight").detach().float().cpu()


def _spread(module: Any, norms: Tensor) -> Tensor:
    """Return one number per input, shaped so that it multiplies the weight."""
    if isinstance(module, nn.Linear):
        return norms
    kernel = (1,) * (module.weight.dim() - 2)
    per_group = norms.reshape(module.groups, -1, *kernel)  # the outputs of a group read the inputs of that group
    return per_group.repeat_interleave(module.out_channels // module.groups, dim=0)


def _twin(network: nn.Module, criterion: str, batches: Batches) -> nn.Module:
    """Return a copy to compute with, in float32 and eval mode.

    Raises:
        ModelError: if there is no batch.
    """
    if not batches:
        raise ModelError(
            f"mask criterion {criterion!r} needs data, and there is no calibration batch; "
            f"raise space.calibration_images, or mask by 'magnitude'"
        )
    return copy_network(network).float().eval()


def _onto(batch: Any, network: nn.Module) -> Any:
    """Return a batch of any structure where the network is, in its precision."""
    device = next(network.parameters()).device

    def place(tensor: Tensor) -> Tensor:
        return tensor.to(device).float() if tensor.is_floating_point() else tensor.to(device)

    return map_tensors(batch, place)
