"""How channels flow outside of layers: element by element, moved about, and over positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.rule_helpers import (
    ChannelTrace,
    argument,
    first_along,
    flat,
)

_JOINS = {"cat", "concat", "concatenate"}

# element by element


def pointwise(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Where elements meet, their channels are united; what is broadcast over another's channels leaves them apart."""
    out = result if isinstance(result, Tensor) else None
    values = list(flat((*args, *kwargs.values())))
    if out is None or not any(tracer.labels(value) is not None for value in values):
        return
    met: Tensor | None = None
    for value in values:
        if tracer.labels(value) is None and (tracer.is_fresh(value) or (value.numel() == 1 and out.numel() > 1)):
            continue
        lifted = _lifted(tracer, value, out)
        if met is not None and operation(func).rstrip("_") in ("add", "sub", "rsub"):
            tracer.channels.note_added(lifted)
        met = lifted if met is None else meet(tracer, met, lifted)
    tracer.set_labels(out, met if met is not None and bool((met != 0).any()) else None)


def _lifted(tracer: ChannelTrace, value: Tensor, out: Tensor) -> Tensor:
    """Return an argument's atoms in as many dimensions as the result, sizes of 1 kept; zeros if it has none.

    What was expanded along a dimension holds one number there, and counts as of size 1.
    """
    labels = tracer.labels(value)
    before = (1,) * (out.dim() - value.dim())
    if labels is not None:
        return labels.view((*before, *value.shape))
    sizes = (1 if stride == 0 else size for size, stride in zip(value.shape, value.stride(), strict=True))
    return torch.zeros((), dtype=torch.int64).expand((*before, *sizes))


def meet(tracer: ChannelTrace, first: Tensor, second: Tensor) -> Tensor:
    """Return the atoms of a result in which two tensors meet element by element, sizes of 1 broadcast."""
    channels = tracer.channels
    shape = torch.Size(max(sizes) for sizes in zip(first.shape, second.shape, strict=True))
    over_second = {d for d in channels.varying(first) if second.shape[d] == 1}
    over_first = {d for d in channels.varying(second) if first.shape[d] == 1}
    if over_first and over_second:
        for labels in (first, second):
            channels.freeze(labels, "meets other channels in every combination")
        return torch.zeros((), dtype=torch.int64).expand(shape)
    if over_second or over_first:
        wide, narrow = (first, second) if over_second else (second, first)
        channels.freeze(narrow, "is one channel for many others")
        return wide.expand(shape)
    first, second = first.expand(shape), second.expand(shape)
    channels.unite(first, second)
    return torch.maximum(first, second) if bool((first == 0).any()) else first


def glu(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Unite the halves of a gated linear unit: it multiplies one by the other, so they shrink alike."""
    labels = tracer.labels(args[0])
    if labels is not None:
        first, second = labels.chunk(2, argument(func, args, kwargs, "dim", -1))
        tracer.channels.unite(first, second)
        tracer.set_labels(result, first)


# moving numbers about


def moved(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Apply the operation to the atoms themselves."""
    values = list(flat(args[:1] if operation(func).endswith("_as") else args))
    if not any(tracer.labels(value) is not None for value in values):
        return

    def atoms(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            labels = tracer.labels(value)
            return torch.zeros((), dtype=torch.int64).expand(value.shape) if labels is None else labels
        return type(value)(atoms(v) for v in value) if isinstance(value, (list, tuple)) else value

    if operation(func) in _JOINS and (like := _like_of_constants(tracer, func, args, kwargs)) is not None:
        args = ([like if tracer.labels(v) is None and tracer.is_fresh(v) else v for v in args[0]], *args[1:])
    moved = func(*(atoms(value) for value in args), **kwargs)
    results, labels = (result, moved) if isinstance(result, (list, tuple)) else ([result], [moved])
    for one, label in zip(results, labels, strict=True):
        tracer.set_labels(one, label)


def _like_of_constants(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any) -> Tensor | None:
    """Return the tensor beside which constants are laid that get as narrow as it does, ``None`` if there are none.

    Zeros made by the size of what stands beside them follow it; zeros of a fixed size stay. Nothing but a trial shows
    which they are: it is a choice like that of a fold, made anew if the first one fails. The first is that they stay.
    """
    dim = int(argument(func, args, kwargs, "dim", 0)) % args[0][0].dim()
    known = [v for v in args[0] if (labels := tracer.labels(v)) is not None and dim in tracer.channels.varying(labels)]
    made = [v for v in args[0] if tracer.labels(v) is None and tracer.is_fresh(v)]
    if not known or not made or any(v.shape != known[0].shape for v in made):
        return None
    labels = tracer.labels(known[0])
    return known[0] if labels is not None and tracer.fold_kept((0, 0), None, 0, labels) else None


def parted(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Equal parts of the channels shrink alike: a channel of one part goes with its like in the others."""
    labels = tracer.labels(args[0])
    if labels is None:
        return
    moved(tracer, func, args, kwargs, result)
    dim = int(argument(func, args, kwargs, "dim", 0)) % labels.dim()
    if dim not in tracer.channels.varying(labels):
        return
    for part in result[1:]:
        if len({part.shape for part in result}) == 1:
            tracer.channels.unite(_known(tracer, part), _known(tracer, result[0]))
        else:
            tracer.findings.parts.append(torch.unique(_known(tracer, part)))


def sliced(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Cut a range out of a tensor; one of channels parts them from the others."""
    moved(tracer, func, args, kwargs, result)
    labels = tracer.labels(args[0])
    dim = int(argument(func, args, kwargs, "dim", 0)) % max(1, args[0].dim())
    if labels is not None and result.shape[dim] < labels.shape[dim] and dim in tracer.channels.varying(labels):
        tracer.findings.parts.append(torch.unique(_known(tracer, result)))


def _known(tracer: ChannelTrace, tensor: Tensor) -> Tensor:
    labels = tracer.labels(tensor)
    return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if labels is None else labels


def viewed(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Unite what shrinks alike: of the parts that channels are folded into, one gets shorter and the others stay.

    It is the part whose size the code leaves open, -1; else the first of a vector that becomes images and the last of
    anything else; or another one, if that turned out better.
    """
    labels = tracer.labels(args[0])
    if labels is None:
        return
    tracer.set_labels(result, labels.reshape(result.shape))
    open_dim = _open_dim(func, args, kwargs, result)
    for dim in tracer.channels.varying(labels):
        parts = _folds_of(tuple(args[0].shape), tuple(result.shape), dim)
        apart = tracer.channels.varying(_known(tracer, result))  # a fold that was seen before is decided
        if len(apart.intersection(parts)) > 1:
            sizes = tuple(result.shape[part] for part in parts)
            left_open = parts.index(open_dim) if open_dim in parts else None
            usual = 0 if labels.dim() == 2 and len(parts) > 2 else len(parts) - 1
            kept = parts[tracer.fold_kept(sizes, left_open, usual, labels)]
            tracer.channels.unite_along(_known(tracer, result), [part for part in parts if part != kept])


def _open_dim(func: Any, args: Any, kwargs: Any, result: Tensor) -> int | None:
    """Return the dimension of a view whose size was given as -1, ``None`` if there is none."""
    name = operation(func)
    if name == "unflatten":
        sizes, before = list(argument(func, args, kwargs, "sizes")), int(argument(func, args, kwargs, "dim"))
        before %= args[0].dim()
    else:
        sizes, before = list(argument(func, args, kwargs, "size", None) or argument(func, args, kwargs, "shape", [])), 0
    return before + sizes.index(-1) if -1 in sizes else None


def shuffled(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Unite the groups of a channel shuffle: they stay, so their channels shrink alike."""
    labels = tracer.labels(args[0])
    if labels is not None:
        folded = labels.reshape(labels.shape[0], int(args[1]), -1, *labels.shape[2:])
        tracer.channels.unite_along(folded, [1])
        tracer.set_labels(result, folded.transpose(1, 2).reshape(labels.shape))


def _folds_of(before: Sequence[int], after: Sequence[int], dim: int) -> list[int]:
    """Return the dimensions, larger than 1, that one dimension is folded into by a view; none if it was merged.

    >>> _folds_of((2, 12, 5), (2, 3, 4, 5), 1), _folds_of((2, 3, 4), (2, 12), 1)
    ([1, 2], [])
    """
    i = j = 0
    while i < len(before) and j < len(after):
        olds, news, old, new = [i], [j], before[i], after[j]
        while old != new:
            if old < new:
                i += 1
                olds.append(i)
                old *= before[i]
            else:
                j += 1
                news.append(j)
                new *= after[j]
        if dim in olds:
            large = [d for d in olds if before[d] > 1]
            return [d for d in news if after[d] > 1] if large == [dim] else []
        i, j = i + 1, j + 1
    return []


def padded(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Padding in space passes; padding between channels adds a fixed number of them."""
    labels = tracer.labels(args[0])
    if labels is None:
        return
    pads, varying = list(argument(func, args, kwargs, "pad")), tracer.channels.varying(labels)
    padded = {labels.dim() - 1 - i // 2 for i, amount in enumerate(pads) if amount}
    if padded & varying:
        tracer.channels.freeze(labels, "is padded with a fixed number of channels")
        return
    tracer.set_labels(result, first_along(labels, padded).expand(result.shape))


# over positions


def pooled(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Pooling and resizing work on each channel alone."""
    labels = tracer.labels(args[0])
    out = result[0] if isinstance(result, tuple) else result
    if labels is None:
        return
    space = next((int(c) for c in operation(func).replace("linear1d", "1d") if c in "123"), 2)
    positions = list(range(labels.dim() - space, labels.dim()))
    tracer.channels.unite_along(labels, positions)
    tracer.set_labels(out, first_along(labels, positions).expand(out.shape))


def reduced(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Let a mean, sum or maximum over positions pass, add branches, and note a statistic over channels.

    Over branches, as after ``torch.stack``, the channels of one meet those of the others. Over channels themselves the
    result belongs to none, and is the statistic of those that stay.
    """
    labels = tracer.labels(args[0])
    out = result[0] if isinstance(result, tuple) else result
    if len(args) > 1 and isinstance(args[1], Tensor):  # the larger of two tensors
        pointwise(tracer, func, args, kwargs, result)
        return
    if labels is None or not isinstance(out, Tensor):
        return
    wanted = argument(func, args, kwargs, "dim")
    wanted = list(range(labels.dim())) if wanted is None or wanted == [] else wanted
    dims = sorted(d % labels.dim() for d in ([wanted] if isinstance(wanted, int) else wanted))
    varying = tracer.channels.varying(labels)
    across = sorted(varying & set(dims))
    if across and varying - set(dims):
        tracer.channels.note_added(labels)
        tracer.channels.unite_along(labels, across)
    elif len(across) == 1:
        lines = first_along(labels, [d for d in range(labels.dim()) if d != across[0]]).reshape(-1)
        tracer.note_statistic(across[0], tracer.channels.classes(lines))
        tracer.set_labels(out, None)
        return
    elif across:
        tracer.channels.freeze(labels, f"is mixed with other channels by {operation(func)} over several dimensions")
        return
    narrow = first_along(labels, dims)
    tracer.set_labels(out, narrow if out.dim() == labels.dim() else narrow.squeeze(dims))
    for further in result[1:] if isinstance(result, tuple) else ():
        if isinstance(further, Tensor) and further.is_floating_point():
            tracer.set_labels(further, tracer.labels(out))


def along(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Let a softmax or running sum over positions pass; over branches it couples them, over channels it mixes them."""
    labels = tracer.labels(args[0])
    if labels is None:
        return
    dim = int(argument(func, args, kwargs, "dim", -1)) % labels.dim()
    varying = tracer.channels.varying(labels)
    if varying == {dim}:
        tracer.channels.freeze(labels, f"is mixed with other channels by {operation(func)}")
        return
    if dim in varying:  # as after torch.stack: a channel of one branch meets those of the others
        tracer.channels.unite_along(labels, [dim])
    tracer.set_labels(result[0] if isinstance(result, tuple) else result, labels.narrow(dim, 0, 1))


def compared(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Follow the likeness of two tensors: over channels it is a number of none, to which channels of zeros add nothing.

    There a channel meets its like in the other tensor, at every other position, as in each of many prototypes.
    """
    met = args[0] * args[1]  # whose shape alone counts
    dim = int(argument(func, args, kwargs, "dim", 1)) % met.dim()
    pair = [_lifted(tracer, value, met) for value in args[:2]]
    if any(dim in tracer.channels.varying(labels) for labels in pair):
        others = [d for d in range(met.dim()) if d != dim]
        for labels in pair:
            tracer.channels.unite_along(labels, others)
        meet(tracer, *(first_along(labels, others) for labels in pair))
        return
    pointwise(tracer, func, args[:2], {}, met)
    alike = tracer.labels(met)
    if alike is not None:
        tracer.set_labels(result, first_along(alike, [dim]).squeeze(dim))
