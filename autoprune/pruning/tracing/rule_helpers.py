"""What the rules of a trace share: reading an operation's arguments, and uniting channels with a layer's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from torch import Tensor, nn

from autoprune.pruning.layers.axes import LayerKind
from autoprune.pruning.tracing.channel_union import Channels
from autoprune.pruning.tracing.operation import operation
from autoprune.pruning.tracing.statistics import Statistic

FoldKey = tuple[bool, int]
"""Whether the pass was one of training, and which operation of that pass folds channels, from 1."""

Turns: TypeAlias = Mapping[FoldKey, int]
"""Folds in which another part gets shorter than usual: fold → which of its parts, from 0."""


@dataclass(frozen=True)
class Fold:
    """A view that folded channels into several parts, one of which gets shorter.

    Attributes:
        key: of the fold.
        labels: the channels.
        choices: which of the parts may get shorter, the likeliest first.
        is_open: whether the code leaves the size of the first choice open.
        likeness: the module that folded, and the sizes of the parts. Folds of one likeness are turned together, as
            queries, keys and values all are folded into heads.
    """

    key: FoldKey
    labels: Tensor
    choices: tuple[int, ...]
    is_open: bool
    likeness: tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Product:
    """A matrix product some of whose dimensions are channels.

    Attributes:
        module: path of the innermost module that was running.
        macs: multiply–accumulates.
        factors: the channels along each such dimension.
        weight: path of the weight, empty for a product of activations.
    """

    module: str
    macs: int
    factors: tuple[Tensor, ...]
    weight: str = ""


@dataclass
class Findings:
    """What the passes of a trace showed beside which channels are the same.

    Attributes:
        turns: folds in which another part gets shorter than usual; given, not found.
        used: paths of the parameters and buffers that some operation read.
        shapes: path → shape, of every bare parameter whose elements were followed.
        makers: the sides of bare parameters that make channels, as the weight of a linear map does.
        statistics: those over channels, of the evaluation pass.
        products: those whose dimensions are channels, though no weight of them is; of the evaluation pass.
        parts: atoms of channels that were split off others by a fixed number; each belongs to a group of its own.
        begun: module → how many had begun before it, in the evaluation pass.
        folds: every view that folded channels.
        contracted: channels that end in a product of two batches of activations, as those of queries and keys do where
            channels of every head are cut, and not whole heads.
    """

    turns: Turns = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    makers: set[tuple[str, str]] = field(default_factory=set)
    statistics: list[Statistic] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=dict)
    folds: list[Fold] = field(default_factory=list)
    contracted: list[Tensor] = field(default_factory=list)


class ChannelTrace(Protocol):
    """What a rule may read from the running trace, and write to it.

    Attributes:
        channels: what is known of all atoms so far.
        findings: what else was seen.
    """

    channels: Channels
    findings: Findings

    def labels(self, tensor: Any) -> Tensor | None:
        """Return the atoms of an activation or bare parameter, ``None`` if it has no channels that can be cut."""
        ...  # pragma: no cover

    def set_labels(self, tensor: Any, labels: Tensor | None) -> None:
        """Record the atoms of a result."""
        ...  # pragma: no cover

    def is_fresh(self, tensor: Any) -> bool:
        """Return whether a tensor was made out of nothing but sizes, as zeros are."""
        ...  # pragma: no cover

    def layer(self, weight: Any) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the layer that owns a weight or computed it, ``None`` if there is none."""
        ...  # pragma: no cover

    def statistic_in(self, weight: Any) -> str:
        """Return the statistic by which a layer's weight was computed; empty if it was not."""
        ...  # pragma: no cover

    def is_turned(self, weight: Any) -> bool:
        """Return whether a layer's weight was transposed before it is used."""
        ...  # pragma: no cover

    def origin_of(self, tensor: Tensor) -> str | None:
        """Return the parameter or buffer that a tensor is, or was computed from alone, as by expanding it."""
        ...  # pragma: no cover

    def matrix_of(self, weight: Any) -> tuple[str, tuple[str, ...]] | None:
        """Return whose weight a matrix is, or was computed from, and what its dimensions are; ``None`` if no one's."""
        ...  # pragma: no cover

    def running(self) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the innermost module that is running, if it is a layer of a known kind."""
        ...  # pragma: no cover

    def path_of(self, tensor: Any) -> str | None:
        """Return the path of a parameter or buffer."""
        ...  # pragma: no cover

    def side(self, path: str, side: str, count: int) -> Tensor:
        """Return the atoms of one side of a layer."""
        ...  # pragma: no cover

    def note_statistic(self, dim: int, atoms: Tensor) -> None:
        """Record that the running operation is a statistic over channels."""
        ...  # pragma: no cover

    def note_product(self, macs: int, *factors: Tensor, weight: str = "") -> None:
        """Record the multiply–accumulates of a product, and the channels along its dimensions that are some."""
        ...  # pragma: no cover

    def fold_kept(self, sizes: tuple[int, ...], open_part: int | None, usual: int, labels: Tensor) -> int:
        """Return which of the parts that channels are folded into gets shorter."""
        ...  # pragma: no cover


Rule = Callable[[ChannelTrace, Any, Any, Any, Any], None]
"""Called with (trace, operation, its arguments, its keyword arguments, its result); updates the trace."""


def argument(func: Any, args: Any, kwargs: Any, name: str, default: Any = None) -> Any:
    """Return an argument of an operation by its name in the schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[position] if position < len(args) else kwargs.get(name, default)
    return kwargs.get(name, default)


def follow_unknown(tracer: ChannelTrace, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Freeze everything that goes into an operation without a rule."""
    for value in flat((*args, *kwargs.values())):
        tracer.channels.freeze(
            tracer.labels(value), f"passes through {operation(func)}, which autoprune does not follow"
        )


def read_along(tracer: ChannelTrace, labels: Tensor | None, dim: int, atoms: Tensor) -> None:
    """Unite the atoms of a side with the channels that are read along a dimension, at every other position."""
    if labels is None:
        return
    others = [d for d in range(labels.dim()) if d != dim]
    tracer.channels.unite_along(labels, others)
    seen = first_along(labels, others).reshape(-1)
    known = seen != 0  # a constant that is read couples nothing
    if bool(known.any()):
        tracer.channels.unite(seen[known], atoms[known])


def spread(atoms: Tensor, like: Tensor, dim: int) -> Tensor:
    """Return atoms laid along one dimension of a result, the same at every other position."""
    return atoms.view([-1 if d == dim else 1 for d in range(like.dim())]).expand(like.shape)


def pass_positions(tracer: ChannelTrace, weight: Tensor, labels: Tensor | None, dim: int, result: Tensor) -> None:
    """Let channels pass a layer that reads positions, along another dimension, once for each channel."""
    if labels is None:
        return
    narrow = first_along(labels, [dim])
    tracer.set_labels(result, narrow.expand(result.shape))
    path = tracer.origin_of(weight)
    if path is not None:
        lines = one_line(tracer, narrow)
        tracer.note_product(result.numel() * labels.shape[dim], *lines, weight=path)


def one_line(tracer: ChannelTrace, labels: Tensor) -> tuple[Tensor, ...]:
    """Return the channels along the one dimension in which they vary; nothing if they vary in several or in none."""
    varying = tracer.channels.varying(labels)
    if len(varying) != 1:
        return ()
    return (first_along(labels, [d for d in range(labels.dim()) if d not in varying]).reshape(-1),)


def first_along(labels: Tensor, dims: Iterable[int]) -> Tensor:
    """Return the first position of a tensor along some dimensions, which keep a size of 1."""
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return labels


def flat(values: Iterable[Any]) -> Iterable[Tensor]:
    """Yield every tensor among values, lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from flat(value)
