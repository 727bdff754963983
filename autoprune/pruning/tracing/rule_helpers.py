"""What the rules of a trace share: reading an operation's arguments, and uniting channels with a layer's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from torch import Tensor, nn

from autoprune.pruning.layers.axes import LayerKind
from autoprune.pruning.tracing.channel_union import Channels


class ChannelTrace(Protocol):
    """What a rule may read from the running trace, and write to it.

    Attributes:
        channels: what is known of all atoms so far.
        makers: the sides of bare parameters that make channels.
    """

    channels: Channels
    makers: set[tuple[str, str]]

    def labels(self, tensor: Any) -> Tensor | None:
        """Return the atoms of an activation or bare parameter, ``None`` if it has no channels that can be cut."""
        ...  # pragma: no cover

    def set_labels(self, tensor: Any, labels: Tensor | None) -> None:
        """Record the atoms of a result."""
        ...  # pragma: no cover

    def layer(self, weight: Any) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the layer that owns a parameter, ``None`` if there is none."""
        ...  # pragma: no cover

    def running(self) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the norm without parameters that is running, if one is."""
        ...  # pragma: no cover

    def path_of(self, tensor: Any) -> str | None:
        """Return the path of a parameter or buffer."""
        ...  # pragma: no cover

    def side(self, path: str, side: str, count: int) -> Tensor:
        """Return the atoms of one side of a layer."""
        ...  # pragma: no cover


Rule = Callable[[ChannelTrace, Any, Any, Any, Any], None]
"""Called with (trace, operation, its arguments, its keyword arguments, its result); updates the trace."""


def argument(func: Any, args: Any, kwargs: Any, name: str, default: Any = None) -> Any:
    """Return an argument of an operation by its name in the schema."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[position] if position < len(args) else kwargs.get(name, default)
    return kwargs.get(name, default)


def operation(func: Any) -> str:
    """Return the name of an operation, ``conv2d``."""
    return str(func._schema.name).removeprefix("aten::")


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
