"""How channels flow through layers: what a layer reads is united with its inputs; what it makes is its own."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.pruning.layers.grouping import loses_whole_groups
from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.rule_helpers import (
    ChannelTrace,
    Rule,
    argument,
    first_along,
    follow_unknown,
    pass_positions,
    read_along,
    spread,
)


def weighted(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Unite what a convolution or linear layer reads with its inputs; what it makes is its own."""
    x, weight = args[0], args[1]
    is_linear = operation(func) == "linear"
    dim = x.dim() - 1 if is_linear else x.dim() - weight.dim() + 1
    owner = tracer.layer(weight)
    if owner is None:
        bare_map(tracer, func, args, kwargs, result, dim)
        return
    path, module, kind = owner
    sizes, labels = kind.sizes(module), tracer.labels(x)
    read, made = tracer.side(path, "in", sizes["in"]), tracer.side(path, "out", sizes["out"])
    if _is_backwards(tracer, func, args, kwargs, module):
        read, made = made, read
        tracer.findings.makers.add((path, "in"))
        if (shift := tracer.labels(argument(func, args, kwargs, "bias"))) is not None:
            tracer.channels.unite(shift, made)
    if mixes_positions(tracer, labels, dim, weight):
        tracer.channels.freeze_now(torch.cat([read, made]), "is computed over positions, which are not channels")
        pass_positions(tracer, weight, labels, dim, result)
        return
    _keep_for_statistic(tracer, weight, path, read)
    groups = _groups_of(func, args, kwargs, module)
    if groups > 1:
        _unite_groups(tracer, module, read, made, groups)
        if labels is None and loses_whole_groups(module):
            tracer.channels.freeze_now(read, "is tied to the network's input, or to what cannot be followed")
    read_along(tracer, labels, dim, read)
    tracer.set_labels(result, spread(made, result, dim))


def _keep_for_statistic(tracer: ChannelTrace, weight: Tensor, path: str, read: Tensor) -> None:
    """Freeze what a weight reads that was brought to a mean or a variance: without some, the others would change."""
    if statistic := tracer.statistic_in(weight):
        why = f"is read by {path}, which takes the {statistic} of its weights: without some, the others would change"
        tracer.channels.freeze_now(read, why)


def _is_backwards(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, module: nn.Module) -> bool:
    """Return whether a weight reads what its layer makes, as where a decoder uses the weights of its encoder."""
    if operation(func) == "linear":
        return tracer.is_turned(args[1])
    return isinstance(module, _ConvNd) and _is_transposed(func, args, kwargs) != module.transposed


def mixes_positions(tracer: ChannelTrace, labels: Tensor | None, dim: int, weight: Tensor) -> bool:
    """Return whether a layer that looks at one position at a time reads along another dimension than channels lie."""
    varying = tracer.channels.varying(labels)
    return bool(varying) and dim not in varying and all(size == 1 for size in weight.shape[2:])


def _groups_of(func: Any, args: Any, kwargs: Any, module: nn.Module) -> int:
    if operation(func) == "linear":
        return 1
    groups = int(argument(func, args, kwargs, "groups", 1))
    return int(getattr(module, "groups", 1)) if groups == 1 and _is_transposed(func, args, kwargs) else groups


def _is_transposed(func: Any, args: Any, kwargs: Any) -> bool:
    return "transpose" in operation(func) or bool(argument(func, args, kwargs, "transposed", False))


def _unite_groups(tracer: ChannelTrace, module: nn.Module, read: Tensor, made: Tensor, groups: int) -> None:
    """Unite what a grouped convolution can only lose together: whole groups, or the same channel of every group."""
    ins, outs = read.view(groups, -1), made.view(groups, -1)
    if loses_whole_groups(module):
        tracer.channels.unite(ins, ins[:, :1])
        tracer.channels.unite(outs, ins[:, :1])
    else:
        tracer.channels.unite_along(ins, [0])
        tracer.channels.unite_along(outs, [0])


def bare_map(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any, dim: int) -> None:
    """Follow a linear map or convolution whose weight belongs to no known layer: its dimensions are its sides."""
    weight, labels = args[1], tracer.labels(args[0])
    is_linear = operation(func) == "linear"
    groups = 1 if is_linear else int(argument(func, args, kwargs, "groups", 1))
    if groups > 1:
        _bare_depthwise(tracer, weight, groups, labels, dim, result)
        return
    if tracer.matrix_of(weight) is None or (is_linear and weight.dim() != 2):
        what = "a linear map whose weight is computed" if is_linear else "a convolution whose weight is computed"
        tracer.channels.freeze(labels, f"is read by {what}")
        return
    out = int(_is_transposed(func, args, kwargs))
    read_by_bare(tracer, weight, args[0], argument(func, args, kwargs, "bias"), result, dim, out)


def read_by_bare(
    tracer: ChannelTrace, weight: Tensor, x: Tensor, bias: Tensor | None, result: Tensor, dim: int, out: int
) -> None:
    """Unite what a bare weight reads along a dimension with one of its first two, and lay the other along the result.

    Args:
        tracer: of the forward pass.
        weight: a parameter or buffer that belongs to no layer.
        x: what it reads.
        bias: what is added, ``None`` if nothing is.
        result: what it makes.
        dim: the dimension of ``x`` that it reads, and of the result that it makes.
        out: 0 or 1, the dimension of the weight that it makes; the other one is what it reads.
    """
    labels = tracer.labels(x)
    if mixes_positions(tracer, labels, dim, weight):
        pass_positions(tracer, weight, labels, dim, result)
        return
    path, sides = tracer.matrix_of(weight) or ("", ())
    made, read = (tracer.side(path, sides[d], weight.shape[d]) for d in (out, 1 - out))
    tracer.findings.makers.add((path, sides[out]))
    _keep_for_statistic(tracer, weight, path, read)
    read_along(tracer, labels, dim, read)
    if isinstance(bias, Tensor) and (shift := tracer.labels(bias)) is not None:
        tracer.channels.unite(shift, made)
    tracer.set_labels(result, spread(made, result, dim))


def _bare_depthwise(
    tracer: ChannelTrace, weight: Tensor, groups: int, labels: Tensor | None, dim: int, result: Tensor
) -> None:
    """Let channels pass through fixed or computed filters of one channel each, as those that blur."""
    if labels is None:
        return
    if groups != labels.shape[dim] or weight.shape[:2] != (groups, 1):
        tracer.channels.freeze(labels, "is read by a grouped convolution whose weight is no layer's own")
        return
    path = tracer.path_of(weight)
    if path is not None:
        read_along(tracer, labels, dim, tracer.side(path, "dim0", groups))
    others = [d for d in range(labels.dim()) if d != dim]
    tracer.channels.unite_along(labels, others)
    seen = first_along(labels, others)
    if path is None:  # one filter for all of them, which is as large with fewer
        macs = result.numel() * prod(weight.shape[2:])
        tracer.note_product(macs, seen.reshape(-1), weight=tracer.origin_of(weight) or "")
    tracer.set_labels(result, seen.expand(result.shape))


def normalised(dim_of: Callable[[Any], int], weight_at: int) -> Rule:
    """Return the rule of a norm whose channels lie along a dimension: they pass, and belong to the norm too."""

    def rule(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        x, labels = args[0], tracer.labels(args[0])
        parameters = [value for value in args[weight_at:] if isinstance(value, Tensor)]
        found = (tracer.layer(value) for value in parameters)
        owner = next((layer for layer in found if layer is not None), None) or tracer.running()
        dim, name = dim_of(x) % x.dim(), operation(func)
        out = result[0] if isinstance(result, tuple) else result
        if labels is None:
            if owner is not None:
                atoms = tracer.side(owner[0], "out", x.shape[dim])
                tracer.channels.freeze_now(atoms, "normalises what cannot be cut")
            return
        if owner is None and (parameters or name in ("layer_norm", "rms_norm")):
            tracer.channels.freeze(labels, f"passes through a {name} without a layer of its own")
        if owner is not None:
            atoms = tracer.side(owner[0], "out", x.shape[dim])
            if bool((labels == 0).any()):
                tracer.channels.freeze(labels, "is normalised together with what cannot be cut")
            read_along(tracer, labels, dim, atoms)
            if isinstance(owner[1], nn.GroupNorm):
                _unite_norm_groups(tracer, atoms, owner[1])
        tracer.set_labels(out, labels)

    return rule


def _unite_norm_groups(tracer: ChannelTrace, atoms: Tensor, norm: nn.GroupNorm) -> None:
    """A group norm loses whole groups, or the same channel of every group: whichever is finer."""
    by_group = atoms.view(norm.num_groups, -1)
    tracer.channels.unite_along(by_group, [1] if loses_whole_groups(norm) else [0])


def layer_norm(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Treat a layer norm over one dimension like other norms; over several it has a fixed size."""
    if len(args[1]) > 1:
        tracer.channels.freeze(tracer.labels(args[0]), "is normalised over several dimensions of fixed size")
        return
    normalised(lambda x: x.dim() - 1, 2)(tracer, func, args, kwargs, result)


def embedding(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Give an embedding channels of its own: it makes them out of indices."""
    owner = tracer.layer(args[0])
    out = result[0] if isinstance(result, tuple) else result
    if owner is None:
        follow_unknown(tracer, func, args, kwargs, result)
        return
    made = tracer.side(owner[0], "out", args[0].shape[1])
    tracer.set_labels(out, spread(made, out, out.dim() - 1))


def prelu(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Tie a slope for each channel to it; one slope for all lets them pass."""
    x, slope = args[0], args[1]
    labels, owner = tracer.labels(x), tracer.layer(slope)
    if labels is not None and slope.numel() > 1:
        if owner is None:
            tracer.channels.freeze(labels, "passes through a PReLU without a layer of its own")
        else:
            read_along(tracer, labels, 1, tracer.side(owner[0], "out", slope.numel()))
    tracer.set_labels(result, labels)
