"""How channels flow through layers: what a layer reads is united with its inputs; what it makes is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from autoprune.pruning.layers.kinds import loses_whole_groups
from autoprune.pruning.tracing.rule_helpers import (
    ChannelTrace,
    Rule,
    argument,
    flat,
    follow_unknown,
    operation,
    read_along,
    spread,
)


def weighted(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Unite what a convolution or linear layer reads with its inputs; what it makes is its own."""
    x, weight = args[0], args[1]
    owner = tracer.layer(weight)
    transposed = "transpose" in operation(func) or bool(argument(func, args, kwargs, "transposed", False))
    labels = tracer.labels(x)
    is_linear = operation(func) == "linear"
    if owner is None and not is_linear:
        tracer.channels.freeze(labels, "is read by a convolution whose weight is no layer's own")
        return
    dim = x.dim() - 1 if is_linear else x.dim() - weight.dim() + 1
    if owner is None:
        _bare_linear(tracer, x, weight, argument(func, args, kwargs, "bias"), result)
        return
    path, module, kind = owner
    sizes = kind.sizes(module)
    read, made = tracer.side(path, "in", sizes["in"]), tracer.side(path, "out", sizes["out"])
    groups = 1 if is_linear else int(argument(func, args, kwargs, "groups", 1))
    if transposed and groups == 1:
        groups = getattr(module, "groups", 1)
    if groups > 1:
        _unite_groups(tracer, read, made, groups)
        if labels is None:
            tracer.channels.freeze(read, "is tied to the network's input, or to what cannot be followed")
    read_along(tracer, labels, dim, read)
    tracer.set_labels(result, spread(made, result, dim))


def _unite_groups(tracer: ChannelTrace, read: Tensor, made: Tensor, groups: int) -> None:
    """A grouped convolution loses whole groups: what a group reads and makes is one."""
    ins, outs = read.view(groups, -1), made.view(groups, -1)
    tracer.channels.unite(ins, ins[:, :1])
    tracer.channels.unite(outs, ins[:, :1])


def _bare_linear(tracer: ChannelTrace, x: Tensor, weight: Any, bias: Any, result: Any) -> None:
    """A linear map whose weight belongs to no layer that autoprune knows: its two dimensions are its sides."""
    path = tracer.path_of(weight)
    if path is None or weight.dim() != 2:
        tracer.channels.freeze(tracer.labels(x), "is read by a linear map whose weight is computed")
        return
    made = tracer.side(path, "dim0", weight.shape[0])
    tracer.makers.add((path, "dim0"))
    read_along(tracer, tracer.labels(x), x.dim() - 1, tracer.side(path, "dim1", weight.shape[1]))
    if isinstance(bias, Tensor) and (labels := tracer.labels(bias)) is not None:
        tracer.channels.unite(labels, made)
    tracer.set_labels(result, spread(made, result, result.dim() - 1))


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
                tracer.channels.freeze(atoms, "normalises what cannot be cut")
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


def recurrent(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Hidden unit h of every layer and direction is one channel, because a recurrent layer has one hidden size."""
    params = next(v for v in args if isinstance(v, (list, tuple)) and len(v) >= 2 and _all_owned(tracer, v))
    owner = tracer.layer(params[0])
    if owner is None:
        follow_unknown(tracer, func, args, kwargs, result)
        return
    path, module, kind = owner
    sizes, hidden = kind.sizes(module), int(module.hidden_size)  # type: ignore[arg-type]
    units = tracer.side(path, "out", sizes["out"]).view(-1, hidden)
    tracer.channels.unite_along(units, [0])
    x = args[0]
    read_along(tracer, tracer.labels(x), x.dim() - 1, tracer.side(path, "in", sizes["in"]))
    for state in flat(v for v in args[1:] if v is not params):
        if (labels := tracer.labels(state)) is not None:
            read_along(tracer, labels, state.dim() - 1, units[0])
    output, *states = result
    directions = output.shape[-1] // hidden
    tracer.set_labels(output, spread(units[-directions:].reshape(-1), output, output.dim() - 1))
    for state in states:
        tracer.set_labels(state, spread(units[0], state, state.dim() - 1))


def _all_owned(tracer: ChannelTrace, values: Iterable[Any]) -> bool:
    return all(isinstance(value, Tensor) and tracer.path_of(value) is not None for value in values)
