"""The ``autoprune`` command: its group, and what happens when something goes wrong.

A deliberate error is one message on stderr and its exit code (2 usage, 1 runtime, 3 nothing fits);
an interrupt is 130. Anything else is a bug and shows its traceback. With ``--json``, stdout holds
one document, an error included.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

import click

from autoprune.errors import AutopruneError

INTERRUPTED = 130

COMMANDS = {
    "apply": "Prune a network by the policy that another one was picked by.",
    "inspect": "Show what can be pruned in a network, and what cannot and why.",
    "pick": "Finish the best network within a budget: longer fine-tune, test score, files.",
    "report": "Show a study's front; write front.csv, front.json and front.png.",
    "search": "Search pruning policies under a budget; the same command resumes.",
    "studies": "List stored studies.",
}


class Commands(click.Group):
    """Load a command's module only when it is called, and turn deliberate errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands by name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"autoprune.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, or say which one may have been meant."""
        from autoprune.errors import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command named {args[0]!r}{did_you_mean(args[0], COMMANDS)}; known: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; leave with the exit code of a deliberate error."""
        ctx.obj = {"json": False}
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without ± or × gets a question mark, not a crash
        try:
            return super().invoke(ctx)
        except AutopruneError as error:
            click.echo(f"autoprune: {error}", err=True)
            if ctx.obj["json"]:
                emit({"error": {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}})
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("autoprune: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            ctx.exit(0)  # whoever read the output has seen enough


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="One FLOP is one multiply–accumulate, as in the pruning papers.",
)
@click.version_option(package_name="autoprune")
def main() -> None:
    """Prune a trained PyTorch network to a budget: search, per layer, how much and by which criterion."""


def emit(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, allow_nan=False))


def _remember_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    root = ctx.find_root()
    root.obj = {**(root.obj or {}), "json": value}
    return value


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_remember_json,
    is_eager=True,
    help="Print one JSON document on stdout; progress goes to stderr.",
)
