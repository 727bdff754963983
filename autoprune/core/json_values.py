"""What JSON can hold, as a type: what ``to_json`` methods return, and ``json.dumps`` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

JsonValue: TypeAlias = "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
"""A value that JSON can hold. Lists and objects are read-only here, so that narrower ones fit."""

JsonObject: TypeAlias = "dict[str, JsonValue]"
"""An object of JSON, newly made and free to be added to."""
