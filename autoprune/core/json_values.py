"""What JSON can hold, as a type: what ``to_json`` methods return, and ``json.dumps`` takes; and how JSON is read.

A stored file may hold anything once it is damaged: whoever reads one catches :data:`DAMAGE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

JsonValue: TypeAlias = "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""A value that JSON can hold. Lists and objects are read-only here, so that narrower ones fit."""

JsonObject: TypeAlias = "dict[str, JsonValue]"
"""An object of JSON, newly made and free to be added to."""

DAMAGE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a ``from_json`` may raise on a file that is not what was written: wrong types, missing keys, huge numbers."""


def parse_json(text: str | bytes) -> Any:
    """Return the value that a JSON text holds.

    >>> parse_json('{"a": [1, null]}')
    {'a': [1, None]}

    Raises:
        ValueError: if it is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
