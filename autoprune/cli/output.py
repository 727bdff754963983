"""What a command prints: one JSON document or text on stdout, and on stderr as much as was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autoprune.cli.headings import Heading, option
from autoprune.errors import UsageError, printable

if TYPE_CHECKING:
    from autoprune.core.measurement import Measurement
    from autoprune.loggers.console import AnyDisplay, Verbosity

_F = TypeVar("_F", bound=Callable[..., Any])


def echo(text: str, *, err: bool = False) -> None:
    """Print text, without the control characters that a file, an archive or an exception may have put into it."""
    click.echo(printable(text), err=err)


def emit(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def cost_line(model: str, inputs: str, costs: Measurement) -> str:
    """Return what a network costs, in one line of rich's markup.

    Args:
        model: its name.
        inputs: what goes in, in words.
        costs: with ``mflops``, ``mparams`` and ``size_mb``.
    """
    from rich.markup import escape

    from autoprune.core.metrics import FLOP_CONVENTION

    return (
        f"{escape(model)} on {escape(inputs)}: {costs['mflops']:.2f} MFLOPs ({FLOP_CONVENTION}), "
        f"{costs['mparams']:.3f} M parameters, {costs['size_mb']:.2f} MB in float32"
    )


def _remember(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """Store a flag with the whole command line, where an error can find it too."""
    root = ctx.find_root()
    root.obj = {**(root.obj or {}), param.opts[0].lstrip("-"): value}
    return value


json_option = option(
    "--json",
    "as_json",
    heading=Heading.OUTPUT,
    is_flag=True,
    callback=_remember,
    is_eager=True,
    help="Print one JSON document on stdout; progress goes to stderr.",
)


def verbosity_options(command: _F) -> _F:
    """Add ``--quiet`` and ``--verbose``, which :func:`verbosity` reads."""
    shared: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _remember, "heading": Heading.OUTPUT}
    command = option("--verbose", "-v", help="Print more: every phase, its seconds, and tracebacks.", **shared)(command)
    return option("--quiet", "-q", help="Print only warnings, errors and the result.", **shared)(command)


def verbosity() -> Verbosity:
    """Return how much the command prints on stderr.

    Raises:
        UsageError: if both ``--quiet`` and ``--verbose`` were given.
    """
    given = click.get_current_context().find_root().obj or {}
    if given.get("quiet") and given.get("verbose"):
        raise UsageError("--quiet and --verbose were both given; give one of them")
    return "quiet" if given.get("quiet") else "verbose" if given.get("verbose") else "normal"


def open_display(*, live: bool = True) -> AnyDisplay:
    """Return what shows progress on stderr.

    Args:
        live: whether a terminal may get a display that is kept up to date, rather than lines.
    """
    from autoprune.loggers.console import make_display
    from autoprune.loggers.safe_console import SafeConsole

    return make_display(SafeConsole(stderr=True), verbosity(), live=live)
