"""How channels flow through recurrent layers and cells: hidden unit h is one channel, through all steps and depths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.rule_helpers import (
    ChannelTrace,
    first_along,
    flat,
    follow_unknown,
    read_along,
    spread,
)


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


def cell(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Treat a cell like a layer of one step: its states are its units."""
    x, states, weight = args[0], args[1], args[2]
    owner = tracer.layer(weight)
    if owner is None:
        follow_unknown(tracer, func, args, kwargs, result)
        return
    path, module, kind = owner
    sizes = kind.sizes(module)
    units = tracer.side(path, "out", sizes["out"])
    read_along(tracer, tracer.labels(x), x.dim() - 1, tracer.side(path, "in", sizes["in"]))
    for state in flat([states]):
        read_along(tracer, tracer.labels(state), state.dim() - 1, units)
    for out in flat([result]):
        tracer.set_labels(out, spread(units, out, out.dim() - 1))


def packed(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Let features pass while sequences of several lengths are laid end to end, or apart again."""
    labels, out = tracer.labels(args[0]), result[0]
    if labels is None:
        return
    steps = [0, 1] if operation(func) == "_pack_padded_sequence" else [0]
    tracer.channels.unite_along(labels, steps)
    features = first_along(labels, steps).reshape(labels.shape[len(steps) :])
    tracer.set_labels(out, features.expand(out.shape))
