"""Set single weights to zero and keep them zero: masks on the network that channel pruning left; shapes stay dense.

Masks are for the ``weight`` of convolutions and linear layers. A weight is read here as *rows*: one row holds what one
output reads, ``in_channels / groups × kernel`` numbers. The pattern ``"weight"`` zeroes any weights of a layer,
``"2:4"`` two of every four along a row. Whether a layer allows a pattern is decided on the network at hand, because
pruned channels make rows shorter; what does not allow it stays dense and is named with the reason.
Combined with ``prune.py``, which cuts first, and with training, which :meth:`Masks.enforce` holds to the zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from autoprune.core.counts import MASK_UNITS, masked_zeros
from autoprune.core.policy import MaskPolicy
from autoprune.core.space import MaskSpace
from autoprune.errors import ModelError, UnknownNameError
from autoprune.pruning.masks.weight_scores import CRITERIA, Batches


@dataclass(frozen=True)
class Maskable:
    """Say which layers a pattern can be put on, in network order.

    Attributes:
        layers: paths of the modules whose ``weight`` can be masked.
        left: path → reason, for every other module that has parameters of its own.
    """

    layers: tuple[str, ...]
    left: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Masks:
    """Hold which weights stay.

    Attributes:
        tensors: parameter path → bool tensor of the parameter's shape on the CPU, ``True`` = keep.
        left_dense: layer path → why the mask that was asked for could not be put on it.
    """

    tensors: Mapping[str, Tensor]
    left_dense: Mapping[str, str] = field(default_factory=dict)

    def apply(self, network: nn.Module) -> None:
        """Set the masked weights of a network to zero, in place.

        Raises:
            ModelError: if the network has no such weights, or of other shapes.
        """
        _zero(self._removed(network))

    def enforce(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Set the masked weights to zero now and after every step of an optimizer.

        Momentum and weight decay go on as they like: what they write is zero again before the next forward pass.
        Call it once the network is on its device.

        Returns:
            a handle; its ``remove()`` ends the enforcement and leaves the zeros.

        Raises:
            ModelError: as :meth:`apply`.
        """
        removed = self._removed(network)
        _zero(removed)
        return optimizer.register_step_post_hook(lambda *_: _zero(removed))

    def zeros(self) -> dict[str, int]:
        """Return parameter path → how many of its weights are zero."""
        return {path: int((~keep).sum()) for path, keep in self.tensors.items()}

    def nonzero(self, network: nn.Module) -> int:
        """Return how many parameters a network has besides the masked ones."""
        return sum(parameter.numel() for parameter in network.parameters()) - sum(self.zeros().values())

    def to_state(self) -> dict[str, Tensor]:
        """Return parameter path → bool tensor, contiguous, as safetensors takes it; :meth:`from_state` reads it."""
        return {path: keep.contiguous().clone() for path, keep in self.tensors.items()}

    @classmethod
    def of_zeros(cls, network: nn.Module, layers: Iterable[str]) -> Masks:
        """Return the masks that keep what is zero in the weights of some layers zero; others are passed over."""
        parameters = dict(network.named_parameters())
        paths = [path for path in (f"{layer}.weight" for layer in layers) if path in parameters]
        return cls({path: (parameters[path].detach() != 0).cpu() for path in paths})

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], left_dense: Mapping[str, str] | None = None) -> Masks:
        """Return the masks that :meth:`to_state` wrote, as bool or as bytes of 0 and 1.

        Raises:
            ModelError: if a tensor is no mask.
        """
        for path, keep in state.items():
            if keep.dtype not in (torch.bool, torch.uint8):
                raise ModelError(f"the mask of {path!r} is {keep.dtype}; expected bool or uint8 of 0 and 1")
        return cls({path: keep.bool().cpu() for path, keep in state.items()}, dict(left_dense or {}))

    def _removed(self, network: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Return the parameters with what has to be zero in them, on their device."""
        parameters = dict(network.named_parameters())
        for path, keep in self.tensors.items():
            if path not in parameters or parameters[path].shape != keep.shape:
                given = tuple(parameters[path].shape) if path in parameters else "no such parameter"
                raise ModelError(
                    f"the mask of {path!r} has shape {tuple(keep.shape)} and the network {given}; "
                    f"masks belong to the network they were built on: build them again after pruning channels"
                )
        return [(parameters[path], ~keep.to(parameters[path].device)) for path, keep in self.tensors.items()]


@torch.no_grad()
def _zero(removed: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, gone in removed:
        parameter.masked_fill_(gone, 0)  # not a product: that keeps NaN, and makes negative zeros


# which layers


def maskable_layers(network: nn.Module, pattern: str, exclude_outputs: Collection[str] = ()) -> Maskable:
    """Return the layers of a network that a pattern can be put on, and why not the others.

    Args:
        network: as it is now; pruned channels change which rows are a multiple of 4.
        pattern: ``"weight"`` or ``"2:4"``.
        exclude_outputs: paths of layers to leave alone because they make the network's output.
    """
    layers, left = [], {}
    uses = Counter(id(p) for _, p in network.named_parameters(remove_duplicate=False))
    for path, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is None and not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        if reason := "it makes the network's output" if path in exclude_outputs else _why_dense(module, pattern, uses):
            left[path] = reason
        else:
            layers.append(path)
    return Maskable(tuple(layers), left)


def _why_dense(module: nn.Module, pattern: str, uses: Mapping[int, int]) -> str | None:
    """Return why a pattern cannot be put on a module, in words, or ``None`` if it can."""
    if not isinstance(module, (_ConvNd, nn.Linear)):
        return f"masks are for convolutions and linear layers, and this is a {type(module).__name__}"
    if isinstance(module, _ConvTransposeNd):
        return "a transposed convolution does not hold what one output reads in one row"
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return "its weight is computed from other parameters"
    if uses[id(module.weight)] > 1:
        return "its weight is shared with another module"
    length = module.weight.flatten(1).shape[1]
    if pattern == "2:4" and length % 4:
        return f"its rows hold {length} weights, which is not a multiple of 4"
    return None


# which weights


def build_masks(network: nn.Module, policy: MaskPolicy, calibration: Batches | None = None) -> Masks:
    """Choose which weights of a network, as it is now, become zero; the network is not touched.

    Pattern ``"weight"`` zeroes exactly ``masked_zeros(weights, units)`` of a layer, for the units of 1/64 nearest to
    the policy. They are the lowest of the layer; by wanda every row loses equally many, and what is left over when
    these do not divide evenly goes one per row to the rows whose next weight scores lowest. Of equal scores the lower
    index goes first. Pattern ``"2:4"`` zeroes the two lowest of every four along a row.

    Args:
        network: with channels cut and blocks dropped already, on any device.
        policy: layers that the network does not have any more, as in a dropped block, are passed over.
        calibration: (images, labels) of the training split; only ``"gradient"`` and ``"wanda"`` look at them.

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
    scores = CRITERIA[policy.criterion](network, layers, calibration or ()) if layers else {}
    left.update({path: "the calibration batches never went through it" for path in layers if path not in scores})
    tensors = {}
    for path, found in scores.items():
        if not torch.isfinite(found).all():
            raise ModelError(f"mask criterion {policy.criterion!r} gave NaN or infinite scores for layer {path!r}")
        tensors[f"{path}.weight"] = _keep(found, policy, units[path])
    return Masks(tensors, left)


def _units(pattern: str, sparsity: float) -> int:
    """Return the units of 1/64 that stay, as :meth:`SearchSpace.nearest` does.

    >>> _units("weight", 0.5), _units("weight", 0.999), _units("2:4", 0.5), _units("2:4", 0.1)
    (32, 1, 32, 64)
    """
    exact = MASK_UNITS * (1 - sparsity)
    return min(MaskSpace(pattern, (), (), 1.0).units, key=lambda units: (abs(units - exact), -units))


def _keep(scores: Tensor, policy: MaskPolicy, units: int) -> Tensor:
    """Return the mask of one layer, from its scores."""
    rows = scores.flatten(1)
    zeros = masked_zeros(rows.numel(), units)
    if policy.pattern == "2:4":
        removed = _lowest_of_each(rows.reshape(-1, 4), 2)
    elif policy.criterion == "wanda":
        removed = _lowest_by_row(rows, zeros)
    else:
        removed = _lowest_of_each(rows.reshape(1, -1), zeros)
    return ~removed.reshape(scores.shape)


def _lowest_of_each(scores: Tensor, count: int) -> Tensor:
    """Return a bool tensor that is true at the ``count`` lowest scores of each row, ties in order of index."""
    order = torch.argsort(scores, dim=1, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :count], True)


def _lowest_by_row(scores: Tensor, count: int) -> Tensor:
    """Return a bool tensor that is true at ``count`` scores: each row's lowest, of equal number but for one."""
    share, rest = divmod(count, scores.shape[0])
    chosen = _lowest_of_each(scores, share)
    if rest:
        following = torch.argsort(scores, dim=1, stable=True)[:, share]
        rows = torch.argsort(scores.gather(1, following[:, None]).flatten(), stable=True)[:rest]
        chosen[rows, following[rows]] = True
    return chosen
