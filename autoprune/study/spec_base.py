"""What all sections of a study's spec share: a strict table, and faults that name what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from autoprune.core.registry import Registry
from autoprune.errors import UnknownNameError

LARGEST = 2**63 - 1
LARGEST_BATCH = 2**40


class Section(BaseModel):
    """A frozen table that knows every key, and converts nothing but whole numbers into floats."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits_a_machine(cls, value: object) -> object:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise fault(f"expected a whole number up to {LARGEST}, as 64 bits hold")
        return value


def fault(reason: str, key: str = "", because: Sequence[str] = ()) -> PydanticCustomError:
    """Return an error for a validator to raise.

    Args:
        reason: what was expected and what to do, without the key and the value.
        key: for a fault between fields of one section, the field to name.
        because: the other fields that take part in it.
    """
    return PydanticCustomError("fault", "{reason}", {"reason": reason, "key": key, "because": list(because)})


def check_name(registry: Registry, name: str, *prefixes: str) -> str:
    """Return ``name`` if it can be one of ``registry``, or begins with a prefix that means something."""
    if name in registry.builtins or (name.startswith(prefixes) and name not in prefixes):
        return name
    known = ", ".join(f"'{prefix}…'" for prefix in prefixes)
    where, colon, attribute = name.rpartition(":")
    if colon:
        is_module = all(part.isidentifier() for part in where.split("."))
        if not (is_module or where.endswith(".py")) or not all(part.isidentifier() for part in attribute.split(".")):
            beside = f", {known}" if known else ""
            raise fault(f"expected a known name{beside}, 'package.module:attribute' or 'path/to/file.py:attribute'")
        return name
    try:
        registry.check(name)
    except UnknownNameError as error:
        raise fault(f"{error}" + (f" Or {known}." if known else "")) from error
    return name


def check_unique(names: tuple[str, ...], may_be_empty: bool = False) -> None:
    """Raise a fault if a name comes twice, or if there is none."""
    if not names and not may_be_empty:
        raise fault("expected at least one name")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise fault(f"expected every name once; repeated: {', '.join(twice)}")


def check_rate(value: object) -> object:
    """Return a learning rate, or ``auto``."""
    is_rate = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    if value != "auto" and not is_rate:
        raise fault("expected a number > 0, or auto")
    return value


Names = Annotated[tuple[str, ...], Field(strict=False)]
OptimizerName = Literal["sgd", "adamw"]
Rate = Annotated[float | Literal["auto"], BeforeValidator(check_rate)]
"""A learning rate above zero, or ``auto``."""
