"""The ``autoprune`` command: its group, and how an error ends a command.

A deliberate error prints one message on stderr and exits with its code (2 usage, 1 runtime, 3 nothing fits); an
interrupt exits with 130. What the operating system refuses, as for want of a permission or of space, exits with 1. If
the reader of stdout is gone, the command ends with 0. Anything else is a bug and shows its traceback. With ``--json``,
stdout holds one document, for an error too. No message shows a password of a storage URL.
"""

from __future__ import annotations

import errno
import sys
import traceback
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from autoprune.cli.lazy_group import LazyGroup
from autoprune.cli.output import echo, emit
from autoprune.cli.secrets import hidden, remember_arguments
from autoprune.cli.standard_streams import steady_streams
from autoprune.errors import AutopruneError, ModelError, StudyError, printable

INTERRUPTED = 130
# what the machine refuses, whatever the code: permissions, full or broken disks, names and links it cannot follow
REFUSED = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE),
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE),
    )
)

COMMANDS = {
    "apply": "Prune a network by the policy of a picked one.",
    "completion": "Print the script that makes Tab complete commands, options, studies and trials.",
    "dashboard": "Look at a copy of a study in optuna-dashboard.",
    "inspect": "Show what can be pruned in a network, and what cannot and why.",
    "pick": "Finish the best network within a budget: longer fine-tune, test score, files.",
    "profile": "Show what a network costs: FLOPs, parameters, size and latency, layer by layer.",
    "report": "Show a study's front; write report.html, a page to choose on, and front.csv, .json, .png, .svg.",
    "search": "Search pruning policies under a budget; the same command resumes.",
    "studies": "List stored studies; remove, copy, export or import one.",
    "time": "Time two ONNX files on this machine, or the networks of a study that still lack their latency.",
    "watch": "Watch a search that is running in another terminal.",
}


class Commands(LazyGroup):
    """The commands of autoprune; deliberate errors become exit codes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command, or fail with the name of the nearest one."""
        from autoprune.errors import did_you_mean

        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no command named {args[0]!r}{did_you_mean(args[0], COMMANDS)}; known: {', '.join(COMMANDS)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, whatever becomes of its output."""
        with steady_streams():
            return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, and remember them as they were typed."""
        remember_arguments(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; exit with the code of a deliberate error."""
        ctx.obj = {"json": False}
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without ± or × gets a question mark, not a crash
        try:
            return super().invoke(ctx)
        except AutopruneError as error:
            _exit_for(error, ctx)
        except click.UsageError as error:
            shown = printable(hidden(error.format_message(), ctx))
            if shown == error.format_message():
                raise
            raise click.UsageError(shown, error.ctx) from error
        except KeyboardInterrupt:
            echo("autoprune: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except SystemExit as error:
            if (fault := _ended_by_the_user(error)) is None:
                raise
            _exit_for(fault, ctx)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in REFUSED:
                named = f"{str(error.filename)!r}: " if error.filename else ""
                advice = "give another path, or free its permissions or the disk"
                _exit_for(StudyError(f"{named}{error.strerror}; {advice}"), ctx)
            sys.excepthook = partial(_show_bug, ctx)
            raise


def _ended_by_the_user(error: SystemExit) -> AutopruneError | None:
    """Return what to say if the user's code ended the program, as in ``forward``; ``None`` if ours did."""
    from autoprune.core.user_code import in_user_code

    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    if Path(innermost).is_relative_to(Path(__file__).parents[1]):
        return None
    return ModelError(f"code of yours ended the program: {in_user_code(error)}")


def _exit_for(error: AutopruneError, ctx: click.Context) -> None:
    """Print a deliberate error, and end the command with its code."""
    message = hidden(str(error), ctx)
    echo(f"autoprune: {message}", err=True)
    if ctx.obj["json"]:
        emit({"error": {"kind": type(error).__name__, "message": message, "exit_code": error.exit_code}})
    ctx.exit(error.exit_code)


def _show_bug(ctx: click.Context, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback; what the exception quotes cannot command the terminal, and shows no password."""
    echo(hidden("".join(traceback.format_exception(kind, error, trace)).rstrip(), ctx), err=True)


@click.group(
    cls=Commands,
    summaries=COMMANDS,
    place="autoprune.cli.{name}:{name}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  autoprune search --budget-mflops 50
  autoprune watch
  autoprune report
  autoprune pick --budget-mflops 50

One FLOP is one multiply–accumulate, as in the pruning papers.
""",
)
@click.version_option(package_name="autoprune")
def main() -> None:
    """Prune a trained PyTorch network to a budget: search, per layer, how much and by which criterion."""
