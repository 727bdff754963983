"""Names for the tensors of inputs and outputs: what ``forward`` calls its arguments, the keys of dictionaries, numbers.

Files that know only a row of tensors, as ONNX, name each of them so.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autoprune.models.calling.inputs import Inputs


def input_names(network: nn.Module, inputs: Inputs, alone: str = "input") -> list[str]:
    """Return a name for each tensor of inputs, in the order of :attr:`Inputs.tensors`.

    Args:
        network: whose ``forward`` names its arguments.
        inputs: that it takes.
        alone: the name of the only argument, given without one.

    >>> import torch
    >>> pair = (torch.zeros(2, 3), {"key": torch.zeros(2), "mask": torch.zeros(2)})
    >>> input_names(nn.Bilinear(3, 3, 1), Inputs.of(pair))
    ['input1', 'input2_key', 'input2_mask']
    """
    if len(inputs.tensors) == 1 and len(inputs.args) == 1 and isinstance(inputs.args[0], Tensor):
        return [alone]
    named = [*zip(_argument_names(network, len(inputs.args)), inputs.args, strict=True), *inputs.kwargs.items()]
    return _unique([_joined((name, *path)) for name, value in named for path in _paths(value)], ())


def output_names(output: object, taken: Collection[str] = (), alone: str = "output") -> list[str]:
    """Return a name for each tensor of an output, in the order of ``tensors_in``.

    Args:
        output: of a network.
        taken: names that others have.
        alone: the name of a tensor without a name, and of a sequence.

    >>> import torch
    >>> output_names({"boxes": torch.zeros(2), "states": [torch.zeros(2), torch.zeros(2)]})
    ['boxes', 'states_0', 'states_1']
    >>> output_names((torch.zeros(2), torch.zeros(2)))
    ['output_0', 'output_1']
    """
    paths = list(_paths(output))
    return _unique([_joined(path if path and not path[0].isdecimal() else (alone, *path)) for path in paths], taken)


def _argument_names(network: nn.Module, count: int) -> list[str]:
    """Return what ``forward`` calls its first arguments."""
    try:
        found = list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        found = []
    single = [one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    rest = next((one.name for one in found if one.kind == one.VAR_POSITIONAL), "input")
    return [*single[:count], *(f"{rest}_{place}" for place in range(count - len(single[:count])))]


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    """Yield the way to each tensor of a structure, in the order of ``tensors_in``."""
    inside: Sequence[tuple[str, Any]] = ()
    if isinstance(value, Tensor):
        yield ()
    elif isinstance(value, Mapping):
        inside = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        inside = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple | set | frozenset):
        inside = [(str(place), each) for place, each in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = list(vars(value).items())
    for name, each in inside:
        for path in _paths(each):
            yield (name, *path)


def _joined(path: tuple[str, ...]) -> str:
    return re.sub(r"\W", "_", "_".join(path))


def _unique(names: Sequence[str], taken: Collection[str]) -> list[str]:
    """Return the names, those that are taken with a number behind them."""
    seen, found = set(taken), list[str]()
    for name in names:
        number, own = 2, name
        while own in seen:
            own, number = f"{name}_{number}", number + 1
        seen.add(own)
        found.append(own)
    return found
