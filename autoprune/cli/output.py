"""How much a command says on stderr: ``--quiet``, ``--verbose``, and the display that follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.loggers.console import AnyDisplay, Verbosity

_F = TypeVar("_F", bound=Callable[..., Any])


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    root = ctx.find_root()
    root.obj = {**(root.obj or {}), str(param.name): value}


def verbosity_options(command: _F) -> _F:
    """Add ``--quiet`` and ``--verbose``; what was said is read by :func:`verbosity`."""
    shared: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _remember}
    command = click.option("--verbose", "-v", help="Say more: every phase, its seconds, and tracebacks.", **shared)(
        command
    )
    return click.option("--quiet", "-q", help="Say only warnings, errors and the result.", **shared)(command)


def verbosity() -> Verbosity:
    """Return how much the command that runs is to say.

    Raises:
        UsageError: if it is to say both less and more.
    """
    said = click.get_current_context().find_root().obj or {}
    if said.get("quiet") and said.get("verbose"):
        raise UsageError("--quiet and --verbose were both given; give one of them")
    return "quiet" if said.get("quiet") else "verbose" if said.get("verbose") else "normal"


def open_display(*, live: bool = True) -> AnyDisplay:
    """Return what shows progress on stderr.

    Args:
        live: whether a terminal may get a display that is kept up to date, rather than lines.
    """
    from rich.console import Console

    from autoprune.loggers.console import make_display

    return make_display(Console(stderr=True), verbosity(), live=live)
