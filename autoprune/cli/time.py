"""``autoprune time``: latency on the machine that will run the network, and what such a machine still owes a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import echo, emit, open_display, verbosity_options
from autoprune.cli.shared_options import stored_study_options, study_argument, trust_option
from autoprune.core.user_code import as_its_owner_runs_it
from autoprune.errors import StudyError, UsageError

if TYPE_CHECKING:
    from autoprune.search.time_owed import LaterTimings

_SCRIPT = Path(__file__).parents[1] / "export" / "timing_script.py"


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune time --script > autoprune_time.py     a file that needs only Python, NumPy and onnxruntime
  autoprune search mine --latency-command "ssh pi python3 autoprune_time.py"
  autoprune time mine                             have it time what it could not while it was off
  autoprune time -                                be the machine that times: an archive in, JSON out
""",
)
@study_argument
@option("--script", heading=Heading.OUTPUT, is_flag=True, help="Print the program that times, for another machine.")
@option(
    "--host",
    heading=Heading.LATENCY,
    default="",
    metavar="NAME",
    help="With `-`: what this machine is called; default: its own name. A front holds latencies of one machine only.",
)
@option(
    "--latency-command",
    "command",
    heading=Heading.LATENCY,
    metavar="COMMAND",
    help="What times from now on, if the machine is reached otherwise than before.",
)
@trust_option
@verbosity_options
@stored_study_options
def time(
    study: str | None,
    script: bool,
    host: str,
    command: str | None,
    trust_code: bool,
    root: Path,
    storage: str | None,
    as_json: bool,
) -> None:
    """Have the networks of STUDY timed that still lack their latency, because the machine that times was out of reach.

    With `-`, be that machine: read an archive of two ONNX files and how to time them from standard input, and print one
    JSON document, as `[latency] command` of a study wants it. Nothing is trained, and no study is touched. The exit
    code is 1 if a latency is still lacking.
    """
    if script or study == "-":
        if (script and study) or command is not None or (as_json and script):
            raise UsageError("--script prints a program and - times an archive; give no study and no other option")
        _be_the_machine(script, host)
        return
    if host:
        raise UsageError("--host names the machine that `autoprune time -` runs on; give it there")
    found = _asked_again(study, root, storage, command, trust_code)
    if as_json:
        emit({"timed": found.timed, "owed": found.owed, "host": found.host})
    else:
        on = f" on {found.host}" if found.host else ""
        echo(f"{found.timed} trial(s) timed{on}; {found.owed} still without a latency")
    if found.owed:
        raise SystemExit(1)  # not sys.exit, which a tracker may have hooked


def _be_the_machine(script: bool, host: str) -> None:
    if script:
        sys.stdout.buffer.write(_SCRIPT.read_bytes())
        return
    from autoprune.export.timing_script import document_of

    document = document_of(sys.stdin.buffer.read, host)
    emit(document)
    if "error" in document:
        raise SystemExit(1)  # not sys.exit, which a tracker may have hooked


def _asked_again(
    study: str | None, root: Path, storage: str | None, command: str | None, trust_code: bool
) -> LaterTimings:
    from autoprune.cli.read_request import read_request
    from autoprune.search.time_owed import time_owed

    latency = {} if command is None else {"latency": {"command": command}}
    request = read_request(study, root, latency)
    if not request.folder.is_dir() or not (request.folder / "resolved.toml").exists():
        raise StudyError(
            f"there is no stored study in {str(request.folder)!r}; `autoprune studies` lists those there are"
        )
    from autoprune.study.folder import StudyFolder

    with as_its_owner_runs_it(request.spec.model.source), open_display() as display:
        return time_owed(request.spec, StudyFolder(request.folder), display, storage, trust_code=trust_code)
