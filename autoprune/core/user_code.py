"""Calling what a user named: a function is given what it accepts, and what it raises becomes our error.

Used by ``models`` and ``tasks`` for built-ins, plug-ins and the user's own functions alike, so that a
built-in has no privilege a user's function lacks.
"""

from __future__ import annotations

import inspect
from typing import Any

from autoprune.errors import AutopruneError


def call_with_accepted(function: Any, reference: str, error: type[AutopruneError], **offers: Any) -> Any:
    """Call ``function`` with whichever of ``offers`` its signature accepts.

    >>> call_with_accepted(lambda num_classes: num_classes, "mine.py:net", AutopruneError, num_classes=3, in_channels=1)
    3

    Args:
        function: what the reference stands for.
        reference: the name the user gave, for messages.
        error: the type raised for any fault.
        **offers: keyword arguments on offer.

    Raises:
        AutopruneError: of the given type, if it is not callable, requires something not on offer, or raises.
    """
    if not callable(function):
        raise error(f"{reference!r} is {type(function).__name__}; expected a function")
    accepted = _accepted(function, reference, error, offers)
    try:
        return function(**accepted)
    except AutopruneError:
        raise
    except Exception as fault:  # the user's own code may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in accepted.items())
        raise error(f"{reference!r}, called with ({given}), raised {type(fault).__name__}: {fault}") from fault


def _accepted(
    function: Any, reference: str, error: type[AutopruneError], offers: dict[str, object]
) -> dict[str, object]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C show no signature
        return {}
    missing = [p.name for p in parameters if _is_required(p) and (p.name not in offers or p.kind is p.POSITIONAL_ONLY)]
    if missing:
        raise error(
            f"{reference!r} requires the argument {', '.join(missing)}, which is not on offer; "
            f"it may take any of {', '.join(offers)} by name, and others need a default"
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return offers
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in offers.items() if name in names}


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )
