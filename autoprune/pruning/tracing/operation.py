"""What an operation of a forward pass is called."""

from __future__ import annotations

from typing import Any


def operation(func: Any) -> str:
    """Return the name of an operation, ``conv2d``."""
    return str(func._schema.name).removeprefix("aten::")
