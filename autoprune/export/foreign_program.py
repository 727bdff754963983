"""Running a program that is not ours: it may hang, print without end, or read nothing of what it is given.

It gets a process group of its own, which ends with it, and no terminal, so that nothing in it can ask for a password
and wait.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

_CHUNK = 1 << 16
_MOST_BYTES = 1 << 20  # of what is wanted there are a few thousand
_LAST_BYTES = 1 << 14  # of what it complains of
_AFTERWARDS = 2.0  # seconds for the pipes to come to their ends, which a grandchild may hold open


@dataclass(frozen=True)
class ProgramEnd:
    """How a program ended.

    Attributes:
        output: what it printed on standard output; at most a mebibyte.
        complaint: the last line that it printed on standard error; empty if there was none.
        code: its exit code; below 0 for the number of the signal that ended it.
        is_late: whether it was ended because its time was over.
        is_endless: whether it was ended because it printed too much.
    """

    output: bytes
    complaint: str
    code: int
    is_late: bool = False
    is_endless: bool = False


def run_program(
    arguments: list[str], given: bytes, seconds: float, given_up: threading.Event | None = None
) -> ProgramEnd:
    """Run a program, and return how it ended.

    Args:
        arguments: the program and its arguments.
        given: what it reads on standard input; it need not read it.
        seconds: after which it is ended, with everything that it started.
        given_up: ends it likewise, once it is set.

    Raises:
        OSError: if it cannot be started.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    output, complaints, is_endless = bytearray(), bytearray(), threading.Event()
    work = [
        threading.Thread(target=_give, args=(process.stdin, given), daemon=True),
        threading.Thread(target=_take, args=(process.stdout, output, is_endless), daemon=True),
        threading.Thread(target=_take_last, args=(process.stderr, complaints), daemon=True),
    ]
    for thread in work:
        thread.start()
    try:
        is_late = not _ended(process, time.monotonic() + seconds, is_endless, given_up)
    finally:
        _end(process)
        for thread in work:
            thread.join(_AFTERWARDS)
    lines = bytes(complaints).decode("utf-8", "replace").strip().splitlines()
    return ProgramEnd(
        bytes(output), lines[-1].strip() if lines else "", process.returncode, is_late, is_endless.is_set()
    )


def _ended(
    process: subprocess.Popen[bytes], until: float, is_endless: threading.Event, given_up: threading.Event | None
) -> bool:
    """Wait for the end of a process, or for too much of its output; return whether it came in time."""
    while process.poll() is None and not is_endless.is_set():
        if time.monotonic() > until or (given_up is not None and given_up.is_set()):
            return False
        is_endless.wait(0.02)
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with what it started."""
    with suppress(ProcessLookupError, PermissionError):  # all of them are gone
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _give(stream: IO[bytes] | None, content: bytes) -> None:
    if stream is not None:
        with suppress(OSError, ValueError), stream:  # it need not read on
            stream.write(content)


def _take(stream: IO[bytes] | None, into: bytearray, is_endless: threading.Event) -> None:
    if stream is not None:
        with stream:
            while part := stream.read1(_CHUNK):  # type: ignore[attr-defined]
                into += part[: _MOST_BYTES - len(into)]
                if len(into) >= _MOST_BYTES:
                    is_endless.set()
                    return


def _take_last(stream: IO[bytes] | None, into: bytearray) -> None:
    if stream is not None:
        with stream:
            while part := stream.read1(_CHUNK):  # type: ignore[attr-defined]
                into += part
                del into[:-_LAST_BYTES]
