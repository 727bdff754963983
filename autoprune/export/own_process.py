"""Foreign code in a process of its own, because it may crash natively and take a night's search with it.

PyTorch's exporters follow the user's own code, and end in a segmentation fault on some of it (``weight.data = …`` in
``forward``). The child is forked, so that a network need not be pickled, which many cannot be; it costs some
milliseconds, as everything is loaded already. It works on one thread: OpenMP's other threads do not survive a fork.
Only Linux forks safely with PyTorch loaded; elsewhere the code runs in this process.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import NoReturn

import torch

SECONDS = 1800.0
_POLL = 0.2  # seconds between two looks at whether the child still lives
_CHUNK = 1 << 20
_HEAD = 8  # bytes that say how many follow
_MADE, _RAISED = b"+", b"-"


class ForeignCodeError(Exception):
    """Foreign code that raised, crashed or took too long; the message says which."""


def in_own_process(work: Callable[[], bytes], reason_of: Callable[[Exception], str]) -> bytes:
    """Return the bytes that foreign code makes, from a child process; what it prints is dropped.

    Args:
        work: may raise or crash; must not use an accelerator.
        reason_of: an exception of it → what to say.

    Raises:
        ForeignCodeError: if it raises, is ended by a signal, or takes more than :data:`SECONDS`.
    """
    if sys.platform != "linux":
        return _in_this_process(work, reason_of)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads; ours are not used in the child
        child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, reason_of, writer)
    os.close(writer)
    status: int | None = None
    try:
        told, status = _read(reader, child)
    finally:
        os.close(reader)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if told[:1] == _MADE:
        return told[1:]
    if told[:1] != _RAISED:
        raise ForeignCodeError(f"it crashed ({_ended(status)})")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # which a forked process cannot use; it raised and did not crash, so here it may
        return _in_this_process(work, reason_of)
    raise ForeignCodeError(told[1:].decode())


def _in_this_process(work: Callable[[], bytes], reason_of: Callable[[Exception], str]) -> bytes:
    try:
        return work()
    except Exception as error:  # of any kind
        raise ForeignCodeError(reason_of(error)) from error


def _work(work: Callable[[], bytes], reason_of: Callable[[Exception], str], writer: int) -> NoReturn:
    """Do the work in the child, tell what came of it, and end without any clean-up of what is the parent's."""
    try:
        faulthandler.disable()
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
            sys.stdout = sys.stderr = nowhere
            torch.set_num_threads(1)
            torch.cuda.is_available = lambda: False
            try:
                told = _MADE + work()
            except Exception as error:  # of any kind
                told = _RAISED + reason_of(error).encode()
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(len(told).to_bytes(_HEAD, "little") + told)
    finally:
        os._exit(0)


def _read(reader: int, child: int) -> tuple[bytes, int]:
    """Return what the child told, empty if it ended before, and how it ended.

    Raises:
        ForeignCodeError: if it takes too long.
    """
    deadline, told, status = time.monotonic() + SECONDS, bytearray(), None
    while True:
        ready, _, _ = select.select([reader], [], [], _POLL if status is None else 0)
        part = os.read(reader, _CHUNK) if ready else b""
        told += part
        if len(told) >= _HEAD and len(told) - _HEAD == int.from_bytes(told[:_HEAD], "little"):
            return bytes(told[_HEAD:]), os.waitpid(child, 0)[1] if status is None else status
        if status is not None and not part:
            return b"", status
        if status is None:
            ended, how = os.waitpid(child, os.WNOHANG)
            status = how if ended else None
        if time.monotonic() > deadline:
            raise ForeignCodeError(f"it did not end within {SECONDS:g} s")


def _ended(status: int | None) -> str:
    number = os.waitstatus_to_exitcode(status or 0)
    return f"signal {signal.Signals(-number).name}" if number < 0 else f"exit code {number}"
