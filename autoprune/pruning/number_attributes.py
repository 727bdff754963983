"""Widths that a module keeps as Python numbers: an integer, or one in a list, that a cut rewrites in the copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NUMBER = "number:"
"""Begins the side of a module that is a number: ``number:width``, ``number:splits.1``."""
_LONGEST = 32  # a longer list is not one of widths
_TORCHS = frozenset(vars(nn.Module())) | {"training"}


def numbers_of(module: nn.Module) -> dict[str, int]:
    """Return side → value of every whole number, above zero, among a module's own attributes.

    >>> block = nn.Module()
    >>> block.width, block.shape = 8, (8, 4, -1)
    >>> numbers_of(block)
    {'number:width': 8, 'number:shape.0': 8, 'number:shape.1': 4}
    """
    found = {}
    for name, value in vars(module).items():
        if name in _TORCHS:
            continue
        if _is_number(value):
            found[f"{NUMBER}{name}"] = value
        elif _is_list(value):
            found |= {f"{NUMBER}{name}.{place}": each for place, each in enumerate(value) if _is_number(each)}
    return found


def name_of(side: str) -> str:
    """Return the attribute that a side names.

    >>> name_of("number:splits.1")
    'splits'
    """
    return side.removeprefix(NUMBER).partition(".")[0]


def set_number(module: nn.Module, side: str, value: int) -> None:
    """Write a number of a module, by its side, in place."""
    name, _, place = side.removeprefix(NUMBER).partition(".")
    if not place:
        setattr(module, name, value)
        return
    values: Any = list(getattr(module, name))
    values[int(place)] = value
    setattr(module, name, values if isinstance(getattr(module, name), list) else tuple(values))


def _is_list(value: Any) -> bool:
    return (
        type(value) in (list, tuple, torch.Size)
        and 0 < len(value) <= _LONGEST
        and all(_is_number(each) or (type(each) is int and each in (-1, 0)) for each in value)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
