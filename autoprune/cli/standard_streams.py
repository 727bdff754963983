"""Standard output and error of the command, when what they lead to breaks: a pipe that is closed, a disk that is full.

Standard output carries the result. If its reader is gone, nothing more is wanted and the command ends with 0; if it
cannot be written, that is said in one line and the command ends with 1. Standard error carries progress: a search of
hours does not end because nobody can read it any more.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def steady_streams() -> Iterator[None]:
    """Guard the streams of this process while a command runs; streams that a caller put in their place are left alone.

    Raises:
        SystemExit: with 0 if the reader of standard output is gone, 1 if it cannot be written.
    """
    own = sys.stdout, sys.stderr
    if isinstance(own[1], io.TextIOWrapper) and own[1] is sys.__stderr__:
        sys.stderr = _Progress(own[1])
    if isinstance(own[0], io.TextIOWrapper) and own[0] is sys.__stdout__:
        sys.stdout = _Result(own[0])
    try:
        yield
    except SystemExit as end:
        if not end.code:
            _flush(sys.stdout)
        raise
    else:
        _flush(sys.stdout)
    finally:
        _let_go(*own)


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        stream.flush()


def _let_go(stdout: TextIO, stderr: TextIO) -> None:
    """Put the streams back that the process had; what cannot be written any more is dropped."""
    for guard in (sys.stdout, sys.stderr):
        if isinstance(guard, _Guard):
            guard.let_go()
    sys.stdout, sys.stderr = stdout, stderr


class _Guard(io.TextIOWrapper):
    """A standard stream that calls :meth:`broke` where it cannot be written, and drops what is written from then on."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        stream.flush()
        super().__init__(
            stream.buffer, encoding=stream.encoding, errors="replace", line_buffering=stream.line_buffering
        )
        self._is_broken = False

    def write(self, text: str) -> int:
        """Write, unless the stream is broken."""
        if not self._is_broken:
            try:
                return super().write(text)
            except OSError as error:
                self._breaks(error)
        return len(text)

    def flush(self) -> None:
        """Flush, unless the stream is broken."""
        if not self._is_broken:
            try:
                super().flush()
            except OSError as error:
                self._breaks(error)

    def _breaks(self, error: OSError) -> None:
        self._is_broken = True
        nowhere = os.open(os.devnull, os.O_WRONLY)  # what is still in the buffer goes there
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        self.broke(error)

    def broke(self, error: OSError) -> None:
        """Decide what follows."""

    def let_go(self) -> None:
        """Hand the underlying stream back, everything written."""
        try:
            self.flush()
        except SystemExit:
            pass
        finally:
            self.detach()


class _Progress(_Guard):
    """Standard error: whatever happens to it, the command goes on."""


class _Result(_Guard):
    """Standard output: without it there is no use in going on."""

    def broke(self, error: OSError) -> None:
        """End the command.

        Raises:
            SystemExit: always.
        """
        if error.errno == errno.EPIPE:
            raise SystemExit(0) from error
        sys.stderr.write(f"autoprune: standard output cannot be written: {error.strerror}; free the disk\n")
        raise SystemExit(1) from error
