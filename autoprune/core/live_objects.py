"""Objects that a Python program hands over as they are, under names that specs can hold: ``live:ResNet``.

A spec names its network and its data by text. What a program has in its hands goes by a name with this prefix, and is
found only while that program is at work with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from autoprune.errors import UsageError

LIVE = "live:"
_OBJECTS: ContextVar[Mapping[str, object] | None] = ContextVar("autoprune_live_objects", default=None)


def is_live(name: str) -> bool:
    """Return whether a name stands for an object of a program."""
    return name.startswith(LIVE)


def live_name(given: object, what: str = "") -> str:
    """Return the name under which an object goes: that of its type, or another word.

    >>> live_name(3), live_name(3, "task")
    ('live:int', 'live:task')
    """
    word = what or type(given).__name__
    return f"{LIVE}{word if word.isidentifier() else 'object'}"


@contextmanager
def live(objects: Mapping[str, object]) -> Iterator[None]:
    """Let names stand for objects, for a stretch of code."""
    token = _OBJECTS.set({**(_OBJECTS.get() or {}), **objects})
    try:
        yield
    finally:
        _OBJECTS.reset(token)


def live_object(name: str, kind: str) -> Any:
    """Return the object that a name stands for.

    Raises:
        UsageError: if no program is at work with it here.
    """
    found = _OBJECTS.get() or {}
    if name not in found:
        raise UsageError(
            f"the {kind} {name!r} is an object that a Python program gave, and it is not here; go on from Python, with "
            "autoprune.Study(folder, model, task) and the same objects (the report and the studies' list need neither)"
        )
    return found[name]
