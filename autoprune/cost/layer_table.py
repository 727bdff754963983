"""Where the work of a network is: one row per layer, for tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.cost.mac_counter import Usage


@dataclass(frozen=True)
class LayerCost:
    """What one layer of the dense network does.

    Attributes:
        name: module path.
        kind: class name.
        inputs: input channels each output reads (inputs / groups of a convolution); 0 if that means nothing here.
        outputs: channels it produces; 0 if that means nothing here.
        macs: multiply–accumulates for one input, those of its submodules not included.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    macs: int


def layer_costs(network: nn.Module, usage: Usage) -> list[LayerCost]:
    """Return every module that does multiply–accumulates, in network order; together they do all of them.

    A weight counts for the module that reads it if it is that module's own, else for the first that owns it.
    """
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters())
    macs = Counter(usage.products)
    for (path, reader), count in usage.weights.items():
        is_own = any(own is parameters.get(path) for own in modules[reader].parameters(recurse=False))
        macs[reader if is_own else path.rpartition(".")[0]] += count
    return [
        LayerCost(name, type(module).__name__, *_widths(module), macs[name])
        for name, module in modules.items()
        if macs[name]
    ]


def _widths(module: nn.Module) -> tuple[int, int]:
    """Return a layer's inputs and outputs."""
    match module:
        case _ConvNd():
            return module.in_channels // module.groups, module.out_channels
        case nn.Linear():
            return module.in_features, module.out_features
        case nn.RNNBase():
            directions = 2 if module.bidirectional else 1
            return module.input_size, directions * (module.proj_size or module.hidden_size)
        case nn.RNNCellBase():
            return module.input_size, module.hidden_size
        case nn.MultiheadAttention():
            return module.embed_dim, module.embed_dim
    return 0, 0
