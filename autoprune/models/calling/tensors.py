"""The tensors in a structure of any kind: tuples, lists, dictionaries, dataclasses, packed sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence


def tensors_in(*values: Any) -> list[Tensor]:
    """Return every tensor in arguments or results, whatever holds it, in order."""
    return list(_walk(values))


def _walk(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _walk(each)
    elif isinstance(value, (list, tuple, set, frozenset)):  # named tuples and packed sequences too
        for each in value:
            yield from _walk(each)
    elif _is_dataclass(value):
        for each in vars(value).values():
            yield from _walk(each)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a structure of the same kind with every tensor changed; what holds no tensor stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, PackedSequence):
        data = change(value.data)
        if data.device != value.data.device:
            value = value.to(data.device)  # type: ignore[arg-type]  # but for the lengths, which stay on the CPU
        return value._replace(data=data)  # its other tensors are places, not numbers
    if not tensors_in(value):
        return value
    if isinstance(value, Mapping):
        changed = {key: map_tensors(each, change) for key, each in value.items()}
        return changed if type(value) is dict else _like(value, changed)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(each, change) for each in value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(map_tensors(each, change) for each in value)
    return dataclasses.replace(value, **{name: map_tensors(each, change) for name, each in vars(value).items()})


def _like(value: Mapping[Any, Any], changed: dict[Any, Any]) -> Any:
    try:
        return type(value)(changed)  # type: ignore[call-arg]
    except Exception:  # a mapping of the user's, whose constructor may be anything
        return changed


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)
