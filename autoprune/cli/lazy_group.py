"""A group of commands, each imported only when it is called, so that help starts at once."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group whose commands are listed without importing them.

    Attributes:
        summaries: command → what its line in the list says.
        place: where a command is found: ``"module:attribute"`` with ``{name}`` for the command's name.
    """

    def __init__(self, *args: Any, summaries: Mapping[str, str], place: str, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.summaries, self.place = summaries, place

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands by name."""
        return sorted(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in self.summaries:
            return None
        module, _, attribute = self.place.format(name=cmd_name).partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self.summaries.items()))
