"""Write docs/reference/cli.md from the commands' own help; ``tests/test_docs.py`` checks that it is up to date."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import click

from autoprune.cli.headings import full_help
from autoprune.cli.main import COMMANDS, main

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
HEADER = """# Commands

Written by `python scripts/make_cli_docs.py` from the commands' own help. `autoprune search --help` explains only the
options that come first; this page is what `autoprune search --help-all` prints.
"""


def help_of(command: click.Command, name: str) -> str:
    names, command = ["-h", "--help"], copy.copy(command)
    vars(command)["_help_option"] = None  # which click keeps from whoever asked first, by other names perhaps
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100, help_option_names=names)
    return f"## {name}\n\n```text\n{full_help(context).rstrip()}\n```\n"


def cli_docs() -> str:
    root = click.Context(main, info_name="autoprune")
    sections = [help_of(main, "autoprune")]
    for name in sorted(COMMANDS):
        command = main.get_command(root, name)
        if command is not None:
            sections.append(help_of(command, f"autoprune {name}"))
        if isinstance(command, click.Group):
            inner = {each: command.get_command(root, each) for each in command.list_commands(root)}
            sections += [help_of(found, f"autoprune {name} {each}") for each, found in inner.items() if found]
    return "\n".join([HEADER, *sections])


if __name__ == "__main__":
    TARGET.write_text(cli_docs(), encoding="utf-8")
    print(f"written: {TARGET}", file=sys.stderr)
