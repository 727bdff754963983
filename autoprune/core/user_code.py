"""Calling what a user named: a function is given what it accepts, and what it raises becomes our error.

Used by ``models`` and ``tasks`` for built-ins, plug-ins and the user's own functions alike, so that a
built-in has no privilege a user's function lacks.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.errors import AutopruneError

_OURS = str(Path(__file__).parents[1])
_LIBRARIES = ("torch", "importlib", "contextlib", "argparse", "threading", "copy")  # which only pass on what was asked


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
        with as_its_owner_runs_it(reference):
            return function(**accepted)
    except AutopruneError:
        raise
    except (Exception, SystemExit) as fault:  # the user's own code may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in accepted.items())
        raise error(f"{reference!r}, called with ({given}), raised {in_user_code(fault)}") from fault


@contextmanager
def as_its_owner_runs_it(program: str) -> Iterator[None]:
    """Run the user's code as a program of its own: our arguments are not its arguments, nor its prints our result.

    What it prints goes to standard error. If our command line runs, its ``sys.argv`` is that of a program without
    arguments, so that a ``parse_args()`` finds its defaults.
    """
    before = sys.argv
    is_command = bool(before) and (Path(before[0]).stem == "autoprune" or before[0].startswith(_OURS))
    with contextlib.redirect_stdout(sys.stderr):
        sys.argv = [program] if is_command else before
        try:
            yield
        finally:
            sys.argv = before


def in_user_code(error: BaseException) -> str:
    """Return what went wrong in the user's code, and where, on one line: ``ValueError: no (net.py:12, in forward)``."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else ""
    if isinstance(error, SystemExit):
        code = f"exit code {error.code}" if isinstance(error.code, int) or error.code is None else f"{error.code!r}"
        said = f"it ended the program with {code}; let it parse no arguments and end nothing"
    name = type(error).__name__
    return f"{name}: {said}{user_line(error)}" if said else f"{name}{user_line(error)}"


def user_line(error: BaseException) -> str:
    """Return the innermost line that is neither ours nor a library's which passes things on; empty if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    passed_on = (_OURS, *(where for name in _LIBRARIES if (where := _place_of(name))))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*passed_on, "<"))
    ]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""


def _place_of(library: str) -> str:
    """Return the folder of a package or the file of a module that is loaded; empty if it is not."""
    found = getattr(sys.modules.get(library), "__file__", None)
    if not found:
        return ""
    return str(Path(found).parent) if Path(found).name == "__init__.py" else str(found)


def _accepted(
    function: Any, reference: str, error: type[AutopruneError], offers: dict[str, object]
) -> dict[str, object]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C show no signature
        return {}
    missing = [p.name for p in parameters if _is_required(p) and (p.name not in offers or p.kind is p.POSITIONAL_ONLY)]
    if missing:
        offered = f"it may take any of {', '.join(offers)} by name, and others need" if offers else "give it"
        raise error(
            f"{reference!r} requires the argument {', '.join(missing)}, which is not on offer; {offered} a default"
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
