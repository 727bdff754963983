"""Count MACs, parameters and bytes of any policy in microseconds, exactly.

A convolution of ``o`` kept outputs, ``i`` kept inputs, ``k`` kernel elements and ``p`` output positions
costs ``o · i · k · p`` multiply–accumulates; a depthwise one ``o · k · p``; a linear layer is a
convolution with ``k = 1``. Positions are recorded once on the dense network, so the cost of a policy is
a few products of small arrays and must equal, exactly, the count on the network really pruned.

One FLOP is one multiply–accumulate, half of what ``torch.utils.flop_counter.FlopCounterMode`` prints.
Biases, norms and activations are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.flop_counter import FlopCounterMode

from autoprune.metrics import Measurement
from autoprune.space import Kept, PruningGroup

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LayerCost:
    """Hold what one layer contributes.

    Attributes:
        name: module path.
        kind: class name, for tables.
        outputs: channels it produces.
        inputs: input channels each output reads (inputs / groups of a convolution; 1 for a norm).
        macs_per_pair: kernel elements × positions; 0 for a norm.
        weights_per_pair: weights for each (output, input) pair.
        per_output: further parameters for each output (bias, norm scale and shift).
        buffers_per_output: stored numbers that are not parameters, for each output (running statistics).
    """

    name: str
    kind: str
    outputs: int
    inputs: int
    macs_per_pair: int
    weights_per_pair: int
    per_output: int
    buffers_per_output: int

    @property
    def macs(self) -> int:
        """Return the dense layer's multiply–accumulates for one input."""
        return self.outputs * self.inputs * self.macs_per_pair


class CostModel:
    """Know the exact MACs, parameters and bytes of every policy over some groups.

    Args:
        network: the dense network; not touched.
        groups: what can be cut.
        example: input of shape ``(N, *input_shape)``; costs are for one of the N.
    """

    def __init__(self, network: nn.Module, groups: Sequence[PruningGroup], example: Tensor) -> None:
        self.layers = layer_costs(network, example)
        self._names = [group.name for group in groups]
        self._full = np.array([group.num_channels for group in groups], dtype=np.int64)
        rows = {layer.name: row for row, layer in enumerate(self.layers)}
        self._out: Ints = np.zeros((len(self.layers), len(groups)), dtype=np.int64)
        self._in: Ints = np.zeros_like(self._out)
        for column, group in enumerate(groups):
            for member in group.members:
                side = self._out if member.side == "out" else self._in
                if member.module in rows and not _is_read_by_depthwise(network, member.module, member.side):
                    side[rows[member.module], column] += member.width
        self._table: Ints = np.array(
            [
                (la.outputs, la.inputs, la.macs_per_pair, la.weights_per_pair, la.per_output, la.buffers_per_output)
                for la in self.layers
            ],
            dtype=np.int64,
        ).T
        self._fix_what_layers_do_not_explain(network, example)

    def _fix_what_layers_do_not_explain(self, network: nn.Module, example: Tensor) -> None:
        """Hold as constants the MACs, parameters and bytes that belong to no layer (attention products …)."""
        everything = {group: int(n) for group, n in zip(self._names, self._full, strict=True)}
        self._other_macs = self._other_params = self._other_bytes = 0
        macs, params, stored = self.count(everything)
        self._other_macs = count_macs(network, example) - macs
        self._other_params = sum(p.numel() for p in network.parameters()) - params
        self._other_bytes = state_bytes(network) - stored
        self.uncounted = ("biases, norms and activations",) + (
            (f"{self._other_macs / 1e6:.2f} MFLOPs outside convolutions and linear layers are taken as constant",)
            if self._other_macs
            else ()
        )

    def count(self, kept: Kept) -> tuple[int, int, int]:
        """Return MACs for one input, parameters, and bytes of the stored float32 weights.

        Args:
            kept: group name → channels kept, for every group.
        """
        gone = self._full - np.array([kept[name] for name in self._names], dtype=np.int64)
        outputs, inputs, pair_macs, pair_weights, per_output, buffers = self._table
        outputs = outputs - self._out @ gone
        inputs = inputs - self._in @ gone
        pairs = outputs * inputs
        macs = int(pairs @ pair_macs) + self._other_macs
        params = int(pairs @ pair_weights + outputs @ per_output) + self._other_params
        stored = 4 * (params - self._other_params + int(outputs @ buffers)) + self._other_bytes
        return macs, params, stored

    def measure(self, kept: Kept) -> Measurement:
        """Return ``mflops``, ``mparams`` and ``size_mb`` (10⁶ bytes, float32) of a policy."""
        return _measurement(*self.count(kept), self.uncounted)


def measure_network(network: nn.Module, example: Tensor) -> Measurement:
    """Return the same three costs of a network as it is, counted without the closed form."""
    params = sum(p.numel() for p in network.parameters())
    return _measurement(count_macs(network, example), params, state_bytes(network), ("biases, norms and activations",))


def _measurement(macs: int, params: int, stored: int, uncounted: tuple[str, ...]) -> Measurement:
    return Measurement({"mflops": macs / 1e6, "mparams": params / 1e6, "size_mb": stored / 1e6}, uncounted=uncounted)


def count_macs(network: nn.Module, example: Tensor) -> int:
    """Count multiply–accumulates for one input, by PyTorch's own counter; the network is not touched.

    Args:
        network: any network.
        example: input of shape ``(N, *input_shape)``.
    """
    twin = copy.deepcopy(network).eval()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel hides its products from the counter
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin(_on_device_of(twin, example)[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return int(counter.get_total_flops()) // 2


def state_bytes(network: nn.Module) -> int:
    """Return the bytes of all parameters and persistent buffers, stored as they are, shared ones once."""
    tensors = {id(t): t.numel() * t.element_size() for t in network.state_dict(keep_vars=True).values()}
    return sum(tensors.values())


def layer_costs(network: nn.Module, example: Tensor) -> list[LayerCost]:
    """Record every convolution, linear layer and batch norm that runs, with its positions.

    A layer that runs several times in one pass has the positions of all its calls.
    """
    twin = copy.deepcopy(network).eval()
    positions: dict[str, int] = {}
    hooks = [
        module.register_forward_hook(_recorder(positions, name))
        for name, module in twin.named_modules()
        if isinstance(module, (_ConvNd, nn.Linear, _BatchNorm))
    ]
    with torch.no_grad():
        twin(_on_device_of(twin, example)[:1])
    for hook in hooks:
        hook.remove()
    return [_layer_cost(name, module, positions[name]) for name, module in twin.named_modules() if name in positions]


def _recorder(positions: dict[str, int], name: str) -> Any:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # a transposed convolution touches every input position with its whole kernel
        seen = (
            inputs[0].numel() // module.in_channels
            if isinstance(module, _ConvTransposeNd)
            else (output.numel() // _outputs(module))
        )
        positions[name] = positions.get(name, 0) + seen

    return record


def _outputs(module: nn.Module) -> int:
    match module:
        case _ConvNd():
            return module.out_channels
        case nn.Linear():
            return module.out_features
        case _BatchNorm():
            return module.num_features
    raise TypeError(f"{type(module).__name__} is not a counted layer")


def _layer_cost(name: str, module: nn.Module, positions: int) -> LayerCost:
    kind, outputs = type(module).__name__, _outputs(module)
    match module:
        case _BatchNorm():
            buffers = 2 if module.track_running_stats else 0
            return LayerCost(name, kind, outputs, 1, 0, 0, 2 if module.affine else 0, buffers)
        case _ConvNd():
            kernel, bias = int(np.prod(module.kernel_size)), int(module.bias is not None)
            return LayerCost(
                name, kind, outputs, module.in_channels // module.groups, kernel * positions, kernel, bias, 0
            )
        case nn.Linear():
            return LayerCost(name, kind, outputs, module.in_features, positions, 1, int(module.bias is not None), 0)
    raise TypeError(f"{kind} is not a counted layer")


def _is_read_by_depthwise(network: nn.Module, name: str, side: str) -> bool:
    """Return whether a side is the input of a depthwise convolution, whose cost its output already scales."""
    module = network.get_submodule(name)
    return side == "in" and isinstance(module, _ConvNd) and module.groups > 1


def _on_device_of(network: nn.Module, example: Tensor) -> Tensor:
    first: Iterable[Tensor] = network.parameters()
    for parameter in first:
        return example.to(device=parameter.device, dtype=parameter.dtype)
    return example
