"""Which layers of a network masks can be put on, and why not the others.

Masks are for the ``weight`` of convolutions and linear layers. This is decided on the network at hand, because pruned
channels make the rows of a weight shorter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.pruning.masks.two_of_four import TWO_OF_FOUR, why_not_two_of_four


@dataclass(frozen=True)
class Maskable:
    """The layers that a pattern can be put on, in network order.

    Attributes:
        layers: paths of the modules whose ``weight`` can be masked.
        left: path → reason, for every other module that has parameters of its own.
    """

    layers: tuple[str, ...]
    left: Mapping[str, str]


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
    return why_not_two_of_four(module.weight) if pattern == TWO_OF_FOUR else None
