"""Whether the command line understands a line, without running it."""

from __future__ import annotations

from collections.abc import Sequence

import click


def understood(group: click.Group, words: Sequence[str], parent: click.Context | None = None) -> None:
    """Parse a command line as far as its last command.

    Raises:
        click.UsageError: if a command or an option does not exist, or a value has another type.
    """
    context = group.make_context("autoprune", list(words), parent=parent)
    left = context._protected_args + context.args
    if not left:
        return
    name, command, rest = group.resolve_command(context, left)
    assert command is not None
    if isinstance(command, click.Group) and rest:
        understood(command, rest, context)
    else:
        command.make_context(name, rest, parent=context)
