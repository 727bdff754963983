"""A copy of a network for a trial cut, made in a fraction of the time that ``copy.deepcopy`` takes.

The proof, sensitivity and screening make hundreds of copies, run each a few times and throw it away. A network that
holds more than plain values beside its modules is copied like any other. The proof's copies even share the numbers of
the weights: surgery replaces tensors and never writes into them. Buffers are always cloned, because training mode
writes into them.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.models.copying.copy_network import copy_network

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_TENSORS = ("_modules", "_parameters", "_buffers")
_DEPTH = 4  # of containers and objects that are looked into


class _NotPlain(Exception):
    """A module holds something that may refer to a module."""


def copier_of(network: nn.Module, *, shares: bool = False) -> Callable[[nn.Module], nn.Module]:
    """Return what copies a network for running it a few times: light copies if that is safe, whole ones otherwise.

    Args:
        network: in any mode; must not change between its copies.
        shares: whether the copies share their parameters' numbers with the network; nothing may write into them then.
    """
    try:
        for module in network.modules():
            for name, value in vars(module).items():
                if name not in _TENSORS:
                    _check(value, 0)
    except _NotPlain:
        return copy_network
    return lambda original: _twin(original, {}, shares)


def _twin(module: nn.Module, done: dict[int, Any], shares: bool) -> nn.Module:
    if id(module) in done:
        found: nn.Module = done[id(module)]
        return found
    twin = done[id(module)] = module.__class__.__new__(module.__class__)
    held = vars(twin)
    for name, value in vars(module).items():
        if name == "_modules":
            held[name] = {key: None if each is None else _twin(each, done, shares) for key, each in value.items()}
        elif name == "_parameters":
            held[name] = {key: _parameter(each, done, shares) for key, each in value.items()}
        elif name == "_buffers":
            held[name] = {key: None if each is None else each.clone() for key, each in value.items()}
        else:
            held[name] = value.copy() if isinstance(value, (list, dict, set)) else value
    return twin


def _parameter(parameter: nn.Parameter | None, done: dict[int, Any], shares: bool) -> nn.Parameter | None:
    """Return another parameter with the same numbers, the same one for one that several modules hold."""
    if parameter is None:
        return None
    if id(parameter) not in done:
        numbers = parameter.detach() if shares else parameter.detach().clone()
        done[id(parameter)] = nn.Parameter(numbers, requires_grad=parameter.requires_grad)
    found: nn.Parameter = done[id(parameter)]
    return found


def _check(value: Any, depth: int) -> None:
    """Raise if a value may refer to a module, directly or through what it holds."""
    if isinstance(value, (*_PLAIN, types.BuiltinFunctionType, types.ModuleType, Tensor)):
        return
    if isinstance(value, types.FunctionType):
        if value.__closure__ is None and "self" not in (value.__kwdefaults__ or {}):
            return
        raise _NotPlain
    if isinstance(value, (nn.Module, types.MethodType)) or depth >= _DEPTH:
        raise _NotPlain
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        inside = list(value)
    elif hasattr(value, "__dict__"):
        inside = list(vars(value).values())
    else:
        raise _NotPlain
    for each in inside:
        _check(each, depth + 1)
