"""The structure of inputs as plain types for JSON, and inputs made from it again, with tensors at hand or without data.

A stored network keeps it, so that it can be called, timed and checked where nobody has its data. Numbers are not
stored, but for the range of integers: an id outside of it would not be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from autoprune.core.json_values import JsonObject
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class InputStructure:
    """What a network is called with, but for the numbers.

    Attributes:
        args: a node for each positional argument: ``{"tensor": "int64", "shape": [4, 9], "low": 0, "high": 29}``,
            ``{"tuple": [...]}``, ``{"list": [...]}``, ``{"dict": {...}}``, ``{"packed": [...]}``, ``{"value": 2.0}``,
            or ``{"other": "Name"}`` for an object of the user's own.
        kwargs: the same for arguments by name.
    """

    args: tuple[Mapping[str, Any], ...]
    kwargs: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, inputs: Inputs) -> InputStructure:
        """Return the structure of inputs.

        >>> InputStructure.of(Inputs.of({"ids": torch.tensor([[3, 1]]), "scale": 2.0})).kwargs["ids"]
        {'tensor': 'int64', 'shape': [1, 2], 'low': 1, 'high': 3}
        """
        return cls(tuple(map(_node, inputs.args)), {str(name): _node(value) for name, value in inputs.kwargs.items()})

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"args": list(self.args), "kwargs": dict(self.kwargs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputStructure:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is damaged.
        """
        found = cls(tuple(data["args"]), dict(data["kwargs"]))
        for node in (*found.args, *found.kwargs.values()):
            _check(node)
        return found

    @property
    def strangers(self) -> list[str]:
        """Return the class names of the user's own objects in it, which nobody else can make."""
        return [name for node in (*self.args, *self.kwargs.values()) for name in _strangers(node)]

    def filled(self, tensors: Iterable[Tensor]) -> Inputs:
        """Return inputs of this structure.

        Args:
            tensors: as :attr:`Inputs.tensors` lists them.

        Raises:
            ModelError: if an object of the user's own is among them.
        """
        rest = iter(tensors)
        return self._made(lambda node: next(rest))

    def example(self) -> Inputs:
        """Return inputs of this structure for a network to be timed on.

        Real numbers are normal noise. Integers and booleans step down from the highest to the lowest that was seen,
        along the last dimension: ids are ids, padding is on the right, and lengths are sorted.

        Raises:
            ModelError: if an object of the user's own is among them.
        """
        generator = torch.Generator().manual_seed(0)
        return self._made(lambda node: _drawn(node, generator))

    def _made(self, make: Callable[[Mapping[str, Any]], Tensor]) -> Inputs:
        args = tuple(_value(node, make) for node in self.args)  # first, as tensors are listed
        return Inputs(args, {name: _value(node, make) for name, node in self.kwargs.items()})


def _node(value: object, *, exact: bool = False) -> dict[str, Any]:
    """Return a value's node; the numbers of a tensor too, if it has to be exactly this one."""
    if isinstance(value, Tensor):
        return _tensor_node(value, exact)
    if isinstance(value, PackedSequence):
        return {"packed": [_node(value.data), *(_node(places, exact=True) for places in value[1:])]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_node(each) for each in value]}  # type: ignore[attr-defined]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: _node(each) for key, each in value.items()}}
    return {"other": type(value).__name__}


def _tensor_node(tensor: Tensor, exact: bool) -> dict[str, Any]:
    node: dict[str, Any] = {"tensor": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    if tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
        return node
    if exact:
        return node | {"values": tensor.tolist()}
    return node | {"low": tensor.min().item(), "high": tensor.max().item()}


def _check(node: Mapping[str, Any]) -> None:
    """Raise unless a node is one.

    Raises:
        KeyError, TypeError, ValueError: saying what is wrong.
    """
    kind = next(iter(node), None)
    if kind == "tensor":
        _dtype(node)
        if any(not isinstance(length, int) or length < 0 for length in node["shape"]):
            raise ValueError(f"an input's shape is {node['shape']}")
    elif kind in ("tuple", "list", "packed", "dict"):
        for each in node["dict"].values() if kind == "dict" else node[kind]:
            _check(each)
    elif kind not in ("value", "other"):
        raise ValueError(f"an input is a {kind!r}")


def _strangers(node: Mapping[str, Any]) -> list[str]:
    kind = next(iter(node))
    if kind == "other":
        return [str(node["other"])]
    inside = node["dict"].values() if kind == "dict" else node[kind] if kind in ("tuple", "list", "packed") else ()
    return [name for each in inside for name in _strangers(each)]


def _dtype(node: Mapping[str, Any]) -> torch.dtype:
    found = getattr(torch, node["tensor"], None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"an input is of type {node['tensor']!r}")
    return found


def _value(node: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Tensor]) -> Any:
    match next(iter(node)):
        case "tensor":
            return make(node)
        case "packed":
            return PackedSequence(*(_value(each, make) for each in node["packed"]))
        case "tuple":
            return tuple(_value(each, make) for each in node["tuple"])
        case "list":
            return [_value(each, make) for each in node["list"]]
        case "dict":
            return {key: _value(each, make) for key, each in node["dict"].items()}
        case "value":
            return node["value"]
    raise ModelError(
        f"among the network's inputs is a {node['other']}, which autoprune cannot make by itself; give inputs with "
        f"--example, or pass tensors in tuples, lists and dictionaries"
    )


def _drawn(node: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Return a tensor of a node."""
    dtype, shape = _dtype(node), tuple(node["shape"])
    if "values" in node:
        return torch.tensor(node["values"], dtype=dtype).view(shape)
    if "low" not in node:
        real = dtype.is_floating_point or dtype.is_complex
        return torch.randn(shape, generator=generator).to(dtype) if real else torch.zeros(shape, dtype=dtype)
    last = shape[-1] if shape else 1
    steps = torch.linspace(float(node["high"]), float(node["low"]), last, dtype=torch.float64).round()
    return steps.clamp(float(node["low"]), float(node["high"])).to(dtype).expand(shape or (1,)).reshape(shape).clone()
