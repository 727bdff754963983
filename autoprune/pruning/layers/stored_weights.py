"""Where the channels of a computed weight lie in the tensors that it is computed from.

``weight_norm`` keeps directions and lengths, ``spectral_norm`` a weight and two vectors; both exist as a
parametrization and as a hook. What else computes a weight is not known here, and such a layer is frozen.

Source: Salimans and Kingma 2016, arXiv:1602.07868, eq. 2; Miyato et al. 2018, arXiv:1802.05957, eq. 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import cast

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm

from autoprune.pruning.layers.axes import Axis, tensor_of

_NEW = "parametrizations.weight"
_NAMES = {
    "weight norm": (f"{_NEW}.original0", f"{_NEW}.original1"),
    "spectral norm": (f"{_NEW}.original", f"{_NEW}.0._u", f"{_NEW}.0._v"),
    "weight norm by a hook": ("weight_g", "weight_v"),
    "spectral norm by a hook": ("weight_orig", "weight_u", "weight_v"),
}


def has_known_weight(module: nn.Module) -> bool:
    """Return whether a layer's weight is a parameter, or computed in a way that is known."""
    return _way(module) is not None


def _way(module: nn.Module) -> str | None:
    """Return how a layer's weight is stored: empty for a parameter, else one of the known ways, else ``None``."""
    if parametrize.is_parametrized(module):
        computed = dict(cast(nn.ModuleDict, module.parametrizations).items())
        steps = list(cast(nn.ModuleList, computed.get("weight", ())))
        if computed.keys() != {"weight"} or len(steps) != 1:
            return None
        known = {_WeightNorm: "weight norm", _SpectralNorm: "spectral norm"}
        return known.get(type(steps[0]))
    own = module._parameters
    if "weight_g" in own and "weight_v" in own:
        return "weight norm by a hook"
    if "weight_orig" in own and "weight_u" in module._buffers:
        return "spectral norm by a hook"
    return "" if isinstance(own.get("weight"), Tensor) else None


def stored_axes(module: nn.Module, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Return the axes of a layer's stored tensors, given those it would have if its weight were a parameter."""
    way = _way(module)
    if not way:
        return (*axes, *_further(module, axes))
    weight = tensor_of(module, "weight")
    found = [axis for axis in axes if axis.tensor != "weight"]
    for axis in axes:
        if axis.tensor == "weight" and weight is not None:
            found += _of_parts(module, way, axis, weight)
    return tuple(found)


def _of_parts(module: nn.Module, way: str, axis: Axis, weight: Tensor) -> Iterator[Axis]:
    lengths = tensor_of(module, _NAMES[way][0]) if "weight norm" in way else None
    has_own_length = lengths is not None and lengths.shape[axis.dim] > 1  # else a zero shortens the others' vector
    for name in _NAMES[way]:
        part = tensor_of(module, name)
        if part is None:
            continue
        if part.dim() == weight.dim():
            is_direction = part.shape == weight.shape and has_own_length and axis.side == "out"
            if part.shape[axis.dim] > 1:
                yield replace(axis, tensor=name, is_direction=is_direction)
        elif name.endswith("_u") and axis.dim == 0:
            yield replace(axis, tensor=name, dim=0, produces=False)
        elif name.endswith("_v") and axis.dim == 1:
            yield replace(axis, tensor=name, dim=0, block=axis.block * prod(weight.shape[2:]), produces=False)


def _further(module: nn.Module, axes: tuple[Axis, ...]) -> Iterator[Axis]:
    """Yield the axes of further parameters that a subclass holds one of per filter, as the gains of a scaled layer."""
    weight = tensor_of(module, "weight")
    known = {axis.tensor for axis in axes}
    out = next((axis for axis in axes if axis.tensor == "weight" and axis.side == "out"), None)
    if weight is None or out is None or out.period is not None:
        return
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        wide = [dim for dim, size in enumerate(tensor.shape) if size > 1]
        if name not in known and len(wide) == 1 and tensor.shape[wide[0]] == weight.shape[out.dim]:
            yield replace(out, tensor=name, dim=wide[0])
