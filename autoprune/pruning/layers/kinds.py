"""The kinds of layers that can be cut: which tensors shrink, along which dimension, when a channel goes.

A :class:`LayerKind` describes one kind as data: its channels per side, and the axes along which they lie in its
tensors. Surgery, masked twins, costs and criteria all read it; nothing else knows a layer by its class. To add a kind,
append one to :data:`KINDS`, and a rule for its operation to ``tracing/rule_table.py`` if it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.core.channel_groups import Side
from autoprune.pruning.layers.attention import ATTENTION_KINDS
from autoprune.pruning.layers.axes import Axis, LayerKind, SideSizes
from autoprune.pruning.layers.axes import tensor_of as tensor_of
from autoprune.pruning.layers.cells import CELL_KINDS
from autoprune.pruning.layers.grouping import decide_groups, loses_whole_groups
from autoprune.pruning.layers.masked_norm import MaskedLayerNorm
from autoprune.pruning.layers.stored_weights import has_known_weight, stored_axes

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a module, ``None`` if autoprune does not know it."""
    return next((kind for kind in KINDS if kind.matches(module)), None)


def has_heads(module: nn.Module) -> bool:
    """Return whether a module is attention that autoprune can cut heads from."""
    kind = kind_of(module)
    return kind is not None and "heads" in kind.sizes(module)


def axes_of(module: nn.Module, side: Side | None = None) -> tuple[Axis, ...]:
    """Return the axes of a module's tensors that exist, of one side or of all."""
    kind = kind_of(module)
    found = kind.axes(module) if kind else ()
    return tuple(a for a in found if side in (None, a.side) and tensor_of(module, a.tensor) is not None)


# convolutions and linear layers


def _conv_sizes(module: _ConvNd) -> SideSizes:
    return {"out": module.out_channels, "in": module.in_channels}


def _conv_axes(module: _ConvNd) -> tuple[Axis, ...]:
    """Of a convolution that loses whole groups, nothing goes along the dimension that holds one group's channels."""
    transposed, grouped = isinstance(module, _ConvTransposeNd), module.groups > 1
    whole = grouped and loses_whole_groups(module)
    out, read = (1, 0) if transposed else (0, 1)
    shared = 1 if grouped else None  # the dimension that holds one group's channels only
    axes = [Axis("bias", 0, "out")]
    if not (whole and transposed):
        period = module.out_channels // module.groups if shared == out else None
        axes.insert(0, Axis("weight", out, "out", period=period))
    if not whole or transposed:
        period = module.in_channels // module.groups if shared == read else None
        axes.append(Axis("weight", read, "in", produces=False, period=period))
    return stored_axes(module, tuple(axes))


def _resize_conv(module: _ConvNd, kept: Mapping[Side, tuple[int, ...]]) -> None:
    per_group = module.in_channels // module.groups, module.out_channels // module.groups
    whole = module.groups > 1 and decide_groups(module)
    module.in_channels = len(kept["in"]) if "in" in kept else module.in_channels
    module.out_channels = len(kept["out"]) if "out" in kept else module.out_channels
    if whole:
        module.groups = module.in_channels // per_group[0]
        if module.groups * per_group[1] != module.out_channels:
            raise ValueError("a grouped convolution loses whole groups, on both sides alike")


def _linear_sizes(module: nn.Linear) -> SideSizes:
    return {"out": module.out_features, "in": module.in_features}


def _linear_axes(module: nn.Linear) -> tuple[Axis, ...]:
    axes = Axis("weight", 0, "out"), Axis("bias", 0, "out"), Axis("weight", 1, "in", produces=False)
    return stored_axes(module, axes)


def _resize_linear(module: nn.Linear, kept: Mapping[Side, tuple[int, ...]]) -> None:
    module.out_features = len(kept["out"]) if "out" in kept else module.out_features
    module.in_features = len(kept["in"]) if "in" in kept else module.in_features


# norms


def _norm_axes(module: nn.Module) -> tuple[Axis, ...]:
    return tuple(Axis(name, 0, "out") for name in ("weight", "bias", "running_mean", "running_var"))


def _batchnorm_sizes(module: Any) -> SideSizes:
    return {"out": module.num_features}


def _resize_batchnorm(module: Any, kept: Mapping[Side, tuple[int, ...]]) -> None:
    module.num_features = len(kept["out"])


def _layernorm_sizes(module: nn.LayerNorm | nn.RMSNorm) -> SideSizes:
    return {"out": module.normalized_shape[-1]}


def _resize_layernorm(module: nn.LayerNorm | nn.RMSNorm, kept: Mapping[Side, tuple[int, ...]]) -> None:
    module.normalized_shape = (len(kept["out"]),)


def _groupnorm_sizes(module: nn.GroupNorm) -> SideSizes:
    return {"out": module.num_channels}


def _resize_groupnorm(module: nn.GroupNorm, kept: Mapping[Side, tuple[int, ...]]) -> None:
    """Keep the channels per group if whole groups went, else the number of groups."""
    if decide_groups(module):
        module.num_groups = len(kept["out"]) // (module.num_channels // module.num_groups)
    module.num_channels = len(kept["out"])


# recurrent layers


def recurrent_directions(module: nn.RNNBase) -> int:
    """Return 2 for a bidirectional layer, else 1."""
    return 2 if module.bidirectional else 1


def _recurrent_sizes(module: nn.RNNBase) -> SideSizes:
    units = module.hidden_size * module.num_layers * recurrent_directions(module)
    return {"out": units, "in": module.input_size}


def _recurrent_axes(module: nn.RNNBase) -> tuple[Axis, ...]:
    """Units are numbered ``(layer · directions + direction) · hidden + unit``; gates are stacked along dimension 0."""
    hidden, directions = module.hidden_size, recurrent_directions(module)
    gates = tuple(gate * hidden for gate in range(GATES[type(module)]))
    axes: list[Axis] = []
    for layer in range(module.num_layers):
        for direction in range(directions):
            tail = f"l{layer}" + ("_reverse" if direction else "")
            start = (layer * directions + direction) * hidden
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                axes.append(Axis(f"{name}_{tail}", 0, "out", start, hidden, gates))
            axes.append(Axis(f"weight_hh_{tail}", 1, "out", start, hidden, produces=False))
            below = (layer - 1) * directions * hidden
            axes.append(
                Axis(f"weight_ih_{tail}", 1, "out", below, directions * hidden, produces=False)
                if layer
                else Axis(f"weight_ih_{tail}", 1, "in", produces=False)
            )
    return tuple(axes)


def _resize_recurrent(module: nn.RNNBase, kept: Mapping[Side, tuple[int, ...]]) -> None:
    weights: dict[str, Tensor] = dict(module.named_parameters())
    module.hidden_size, module.input_size = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
    module.flatten_parameters()


def _is_recurrent(module: nn.Module) -> bool:
    return type(module) in GATES and not getattr(module, "proj_size", 0)


# embeddings


def _embedding_sizes(module: Any) -> SideSizes:
    return {"out": module.embedding_dim}


def _embedding_axes(module: Any) -> tuple[Axis, ...]:
    return (Axis("weight", 1, "out"),)


def _resize_embedding(module: Any, kept: Mapping[Side, tuple[int, ...]]) -> None:
    module.embedding_dim = module.weight.shape[1]


# slopes of one parameter per channel


def _prelu_axes(module: nn.PReLU) -> tuple[Axis, ...]:
    return (Axis("weight", 0, "out"),) if module.num_parameters > 1 else ()


def _resize_prelu(module: nn.PReLU, kept: Mapping[Side, tuple[int, ...]]) -> None:
    module.num_parameters = len(kept["out"])


KINDS: list[LayerKind] = [
    LayerKind(
        "convolution", lambda m: isinstance(m, _ConvNd) and has_known_weight(m), _conv_sizes, _conv_axes, _resize_conv
    ),
    LayerKind(
        "linear layer",
        lambda m: isinstance(m, nn.Linear) and has_known_weight(m),
        _linear_sizes,
        _linear_axes,
        _resize_linear,
    ),
    LayerKind(
        "batch or instance norm",
        lambda m: isinstance(m, (_BatchNorm, _NormBase)),
        _batchnorm_sizes,
        _norm_axes,
        _resize_batchnorm,
    ),
    LayerKind(
        "layer or root-mean-square norm",
        lambda m: isinstance(m, (nn.LayerNorm, nn.RMSNorm)) and len(m.normalized_shape) == 1,
        _layernorm_sizes,
        _norm_axes,
        _resize_layernorm,
        masked=MaskedLayerNorm,
    ),
    LayerKind(
        "group norm",
        lambda m: isinstance(m, nn.GroupNorm),
        _groupnorm_sizes,
        _norm_axes,
        _resize_groupnorm,
        masked=MaskedLayerNorm,
    ),
    LayerKind("recurrent layer", _is_recurrent, _recurrent_sizes, _recurrent_axes, _resize_recurrent),
    LayerKind(
        "embedding",
        lambda m: isinstance(m, (nn.Embedding, nn.EmbeddingBag)),
        _embedding_sizes,
        _embedding_axes,
        _resize_embedding,
    ),
    LayerKind(
        "PReLU",
        lambda m: isinstance(m, nn.PReLU),
        lambda m: {"out": m.num_parameters} if m.num_parameters > 1 else {},
        _prelu_axes,
        _resize_prelu,
    ),
    *CELL_KINDS,
    *ATTENTION_KINDS,
]
"""Every kind of layer that can be cut; the first that matches applies."""
