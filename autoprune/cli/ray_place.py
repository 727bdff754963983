"""What runs on a node of a Ray cluster: a place, which starts one worker beside it and hands on what it says.

Ray makes an actor of it. It imports neither Ray nor PyTorch, and the worker is the process that ``--workers 2`` starts.
"""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from autoprune.core.child_process import started_python

_WAIT_SECONDS = 1.0  # for the first line of an answer


@dataclass(frozen=True)
class Placed:
    """Where a worker was started.

    Attributes:
        host: of the node.
        process: of the worker there.
        fault: why it was not started, or an empty string.
    """

    host: str
    process: int = 0
    fault: str = ""


@dataclass(frozen=True)
class Said:
    """What a worker has said since it was asked last.

    Attributes:
        lines: of its standard output.
        errors: lines of its standard error.
        code: by which it ended; ``None`` while it lives, or has more to say.
    """

    lines: tuple[str, ...]
    errors: tuple[str, ...]
    code: int | None = None


class Place:
    """A process of Ray's beside which one worker runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: queue.Queue[tuple[bool, str | None]] = queue.Queue()
        self._open = 0

    def start(self, words: Sequence[str], environment: Mapping[str, str], folder: str) -> Placed:
        """Start the worker.

        Args:
            words: what stands behind the name of the interpreter.
            environment: variables beside those of this process.
            folder: in which the command was typed.
        """
        host = socket.gethostname()
        if not Path(folder).is_dir():
            fault = (
                f"the node {host} has no folder {folder!r}; type the command in a folder that all nodes of the cluster "
                f"share"
            )
            return Placed(host, fault=fault)
        self._process = started_python(words, environment, folder=folder)
        for is_error, stream in ((False, self._process.stdout), (True, self._process.stderr)):
            if stream is not None:
                self._open += 1
                threading.Thread(target=self._listen, args=(is_error, stream), daemon=True).start()
        return Placed(host, self._process.pid)

    def read(self) -> Said:
        """Return what the worker has said meanwhile; wait a moment for something."""
        said: tuple[list[str], list[str]] = ([], [])
        with suppress(queue.Empty):
            is_error, text = self._said.get(timeout=_WAIT_SECONDS)
            while True:
                if text is None:
                    self._open -= 1
                else:
                    said[is_error].append(text)
                is_error, text = self._said.get_nowait()
        code = self._process.wait() if self._process is not None and not self._open else None
        return Said(tuple(said[0]), tuple(said[1]), code)

    def send_signal(self, number: int) -> None:
        """Send the worker a signal, if it still lives."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _listen(self, is_error: bool, stream: IO[str]) -> None:
        for text in stream:
            self._said.put((is_error, text))
        self._said.put((is_error, None))
