"""How channels flow into tensors that the code makes itself and writes into."""

from __future__ import annotations

from typing import Any

import torch

from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.rule_helpers import ChannelTrace, argument, first_along, flat

_ALONG = {"index_add", "index_copy", "scatter", "scatter_add"}  # to chosen places along one dimension


def copied(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Copy all of a tensor over another like a sum; numbers copied into part of one cannot be followed there."""
    if operation(func).rstrip("_") == "copy" and tuple(args[1].shape) == tuple(args[0].shape):
        source, target = tracer.labels(args[1]), tracer.labels(args[0])
        if source is not None and target is not None and tracer.path_of(args[0]) is not None:
            tracer.channels.unite(target, source)  # statistics kept by hand, in a buffer
        if source is not None and (target is None or tracer.path_of(args[0]) is None):
            tracer.set_labels(args[0], source)
        return
    if operation(func).rstrip("_") == "index_put" and _written_rows(tracer, args):
        return
    if operation(func).rstrip("_") in _ALONG and _written_along(tracer, func, args, kwargs, result):
        return
    tracer.channels.freeze(tracer.labels(args[1]), "is copied into a tensor of fixed size")
    tracer.channels.freeze(tracer.labels(args[0]), "is overwritten in part")
    for value in flat(args[2:]):
        tracer.channels.freeze(tracer.labels(value), "is copied into a tensor of fixed size")


def _written_rows(tracer: ChannelTrace, args: Any) -> bool:
    """Follow values that are written into chosen rows of a tensor, all channels of each; return whether they were."""
    target, indices, values = args[:3]
    chosen = [index for index in indices if index is not None]
    if len(chosen) != len(indices) or tracer.labels(values) is None:
        return False
    rows = sum(index.dim() if index.dtype == torch.bool else 1 for index in chosen)
    labels, kept = tracer.labels(values), target.dim() - rows
    if (
        labels is None
        or kept > labels.dim()
        or tuple(labels.shape[labels.dim() - kept :]) != tuple(target.shape[rows:])
    ):
        return False
    before = list(range(labels.dim() - kept))
    tracer.channels.unite_along(labels, before)
    written = first_along(labels, before).reshape(labels.shape[len(before) :]).expand(target.shape)
    there = tracer.labels(target)
    if there is None and not tracer.is_fresh(target):
        return False
    if there is not None:
        tracer.channels.unite(there, written)
    tracer.set_labels(target, written)
    return True


def _written_along(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> bool:
    """Follow values that are written to chosen places along a dimension, as messages to the nodes of a graph.

    All channels of each are written, so these stay apart; return whether the values were followed.
    """
    target, source = args[0], argument(func, args, kwargs, "source", argument(func, args, kwargs, "src"))
    labels, there = tracer.labels(source), tracer.labels(target)
    dim = int(argument(func, args, kwargs, "dim")) % max(1, target.dim())
    sizes = [tuple(size for d, size in enumerate(tensor.shape) if d != dim) for tensor in (target, source)]
    is_followed = labels is not None and (there is not None or tracer.is_fresh(target)) and sizes[0] == sizes[1]
    if labels is None or not is_followed or dim in tracer.channels.varying(labels) | tracer.channels.varying(there):
        return False
    written = first_along(labels, [dim]).expand(target.shape)
    if there is not None:
        tracer.channels.unite(there, written)
    tracer.set_labels(result, written)
    return True
