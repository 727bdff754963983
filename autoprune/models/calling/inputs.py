"""What a network is called with: :class:`Inputs`, one batch of any structure, counted, cut and moved as one.

Tensors may be of any type: images, token ids, masks, several of them, in tuples, lists, dictionaries or packed
sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autoprune.models.calling.tensors import map_tensors, tensors_in

_SHOWN = 4  # equal items of a list, one after the other, beyond which they are counted


@dataclass(frozen=True, eq=False)
class Inputs:
    """One batch as a network takes it.

    Attributes:
        args: positional arguments, of any structure.
        kwargs: arguments by name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, given: Any) -> Inputs:
        """Return what a network is called with when it is given something.

        A tuple holds positional arguments, a dictionary arguments by name, and a pair of a tuple and a dictionary
        both; anything else, a list too, is one argument.

        >>> Inputs.of(torch.zeros(2, 3)).size, Inputs.of({"ids": torch.zeros(4, 7)}).size
        (2, 4)
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, Mapping):
            return cls((), dict(given))
        if isinstance(given, tuple) and not hasattr(given, "_fields"):
            if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], Mapping):
                return cls(given[0], dict(given[1]))
            return cls(given, {})
        return cls((given,), {})

    def run(self, network: Callable[..., Any]) -> Any:
        """Return what a network answers."""
        return network(*self.args, **self.kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        """Return every tensor, in order."""
        return tensors_in(self.args, self.kwargs)

    @property
    def size(self) -> int | None:
        """Return the number of examples: the first dimension, if it is the same everywhere; ``None`` otherwise.

        A list holds examples, as images of several sizes, so that the first dimension of each means something else;
        so it does in packed sequences.
        """
        if any(_is_listed(value) for value in (*self.args, *self.kwargs.values())):
            return None
        lengths = {tensor.shape[0] if tensor.dim() else None for tensor in self.tensors}
        return lengths.pop() if len(lengths) == 1 else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one example if the inputs are one tensor; empty if they are something else."""
        alone = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return tuple(alone.shape[1:]) if isinstance(alone, Tensor) else ()

    @property
    def has_real_numbers(self) -> bool:
        """Return whether a tensor is of floating point, and not all of indices and masks."""
        return any(tensor.is_floating_point() for tensor in self.tensors)

    @property
    def is_plain(self) -> bool:
        """Return whether the inputs are one tensor of real numbers, as images are."""
        alone = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return isinstance(alone, Tensor) and alone.is_floating_point()

    @property
    def device(self) -> torch.device:
        """Return where the first tensor is."""
        return next((tensor.device for tensor in self.tensors), torch.device("cpu"))

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Return the same structure with every tensor changed."""
        return Inputs(map_tensors(self.args, change), map_tensors(dict(self.kwargs), change))

    def first(self, count: int) -> Inputs:
        """Return the first examples; all of them where they cannot be told apart."""
        return self if self.size is None or self.size <= count else self.map(lambda tensor: tensor[:count])

    def of_size(self, count: int) -> Inputs:
        """Return so many examples, repeated or cut; the batch as it is where they cannot be told apart.

        >>> Inputs.of(torch.tensor([[1], [2]])).of_size(3).tensors[0].tolist()
        [[1], [2], [1]]
        """
        size = self.size
        if not size or size >= count:
            return self.first(count)
        return self.map(lambda tensor: torch.cat([tensor] * -(-count // size))[:count])

    def at_least_two(self) -> Inputs:
        """Return the same with a second, mirrored example where there is but one; batch norm cannot train on one."""
        return self.map(lambda tensor: torch.cat([tensor, _mirrored(tensor)])) if self.size == 1 else self

    def real_as(self, dtype: torch.dtype) -> Inputs:
        """Return the same with its real numbers in another precision; indices and masks stay what they are."""
        return self.map(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)

    def on(self, device: str | torch.device) -> Inputs:
        """Return the same on a device, without history."""
        return self.map(lambda tensor: tensor.detach().to(device))

    def for_network(self, network: nn.Module) -> Inputs:
        """Return the same on the CPU, in the precision in which a network there computes."""
        real = (p.dtype for p in network.parameters() if p.is_floating_point())
        placed, dtype = self.on("cpu"), next(real, None)
        return placed.real_as(dtype) if dtype is not None else placed

    def __str__(self) -> str:
        """Return the structure for messages.

        >>> str(Inputs.of(torch.zeros(2, 3)))
        'an input of shape (2, 3)'
        >>> str(Inputs.of(torch.zeros(2, 3, dtype=torch.int64)))
        'an input of int64 of shape (2, 3)'
        >>> str(Inputs.of({"ids": torch.zeros(2, 7, dtype=torch.int64), "scale": 2.0}))
        'inputs ids=int64(2, 7), scale=float'
        """
        if len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor):
            kind = "" if self.has_real_numbers else f" of {str(self.args[0].dtype).removeprefix('torch.')}"
            return f"an input{kind} of shape {tuple(self.args[0].shape)}"
        return "inputs " + ", ".join(self._described())

    def _described(self) -> Iterator[str]:
        for value in self.args:
            yield words(value)
        for name, value in self.kwargs.items():
            yield f"{name}={words(value)}"


def words(value: Any) -> str:
    """Return a structure in words: types and shapes, no numbers."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {words(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        runs = [(len(list(alike)), held) for held, alike in groupby(map(words, value))]
        parts = [text for times, held in runs for text in ([f"{times} × {held}"] if times > _SHOWN else [held] * times)]
        return f"{type(value).__name__} of " + ", ".join(parts) if value else f"no {type(value).__name__}"
    if is_dataclass(value) and not isinstance(value, type):
        held = ", ".join(f"{field.name}: {words(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({held})"
    return type(value).__name__


def _is_listed(value: Any) -> bool:
    """Return whether a structure holds tensors in a list, or packed."""
    if isinstance(value, list | PackedSequence):
        return bool(tensors_in(value))
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    return any(map(_is_listed, inside))


def _mirrored(tensor: Tensor) -> Tensor:
    return tensor.flip(-1) if tensor.dim() > 1 else tensor
