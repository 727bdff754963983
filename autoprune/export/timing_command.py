"""Latency of another machine: a command reads two ONNX files in an archive, and prints one JSON document.

The command is the user's own, such as ``ssh pi autoprune time -``; ``timing_script`` is the program at its other end.
Nothing that it prints is trusted: the document has to be about the files that were sent, timed as was asked.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shlex
import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.core.latency_host import LatencyHost
from autoprune.cost.latency import LatencyComparison
from autoprune.cost.timing_lock import timing_lock
from autoprune.errors import TimingError
from autoprune.export.foreign_program import ProgramEnd, run_program
from autoprune.export.timing_script import DENSE, FORMAT, INPUTS, PLAN, PRUNED

_SHOWN = 160  # characters of what it said


@dataclass(frozen=True)
class TimingRequest:
    """Two networks to be timed against each other.

    Attributes:
        dense: content of the dense network's ONNX file.
        pruned: content of the pruned one's.
        feed: input name → NumPy array, one batch.
        blocks: pairs of blocks, the warm-up among them.
        calls: in each block.
        threads: CPU threads.
    """

    dense: bytes
    pruned: bytes
    feed: Mapping[str, Any]
    blocks: int
    calls: int
    threads: int

    def archive(self) -> bytes:
        """Return the tar that the command reads; inputs that are all zeros go as their shapes."""
        shapes = {name: {"shape": list(array.shape), "type": str(array.dtype)} for name, array in self.feed.items()}
        plan = {"format": FORMAT, "blocks": self.blocks, "calls": self.calls, "threads": self.threads, "inputs": shapes}
        members = {PLAN: json.dumps(plan).encode(), DENSE: self.dense, PRUNED: self.pruned}
        values = {name: array for name, array in self.feed.items() if array.any()}
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name, content in (members | ({INPUTS: _npz(values)} if values else {})).items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return file.getvalue()


def _npz(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@dataclass(frozen=True)
class TimingCommand:
    """A command that times.

    Attributes:
        text: as a shell would take it; no shell runs it, so quotes group words and nothing else is special.
        seconds: most that it may take.
    """

    text: str
    seconds: float

    def time(
        self, request: TimingRequest, given_up: threading.Event | None = None
    ) -> tuple[LatencyComparison, LatencyHost]:
        """Return what the other machine measured, and what it is.

        Of workers on this machine, one at a time asks.

        Args:
            request: what to time.
            given_up: ends the command once it is set, as if it were late.

        Raises:
            TimingError: in one line, if it does not answer in time, or with anything else than what was asked.
        """
        turn = f"command-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"
        with timing_lock(turn, self.seconds, step_seconds=0.0):
            try:
                end = run_program(shlex.split(self.text), request.archive(), self.seconds, given_up)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise self._error(f"cannot be started: {reason}; correct latency.command") from error
        return self._answer(end, request)

    def _answer(self, end: ProgramEnd, request: TimingRequest) -> tuple[LatencyComparison, LatencyHost]:
        said = f"; it said: {end.complaint[:_SHOWN]}" if end.complaint else ""
        if end.is_late:
            raise self._error(f"did not answer within {self.seconds:g} s (latency.command_seconds){said}")
        if end.is_endless:
            raise self._error("printed a mebibyte and more; expected one JSON document")
        try:
            document = parse_json(end.output)
        except ValueError as error:
            if end.code:
                raise self._error(f"ended with exit code {end.code}{said or ', and said nothing'}") from error
            first = end.output.decode("utf-8", "replace").strip().partition("\n")[0][:_SHOWN]
            raise self._error(
                f"printed {first!r} where one JSON document was expected; nothing else, such as a shell's start-up "
                f"file, may print there"
            ) from error
        try:
            return read_document(document, request)
        except DAMAGE as error:
            raise self._error(str(error)) from error

    def _error(self, what: str) -> TimingError:
        return TimingError(f"the latency command {self.text!r} {what}")


def read_document(document: Any, request: TimingRequest) -> tuple[LatencyComparison, LatencyHost]:
    """Return what a document of ``autoprune time -`` says, if it answers the request.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: saying what is wrong with it.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"printed JSON that is no document of `autoprune time` in format {FORMAT}; use one version")
    if "error" in document:
        raise ValueError(f"failed on {document.get('host') or 'its machine'}: {str(document['error'])[:_SHOWN]}")
    sent = {"dense": request.dense, "pruned": request.pruned}
    if document.get("sha256") != {name: hashlib.sha256(content).hexdigest() for name, content in sent.items()}:
        raise ValueError("answered about other files than were sent, by their sha256")
    asked = {"blocks": request.blocks, "calls": request.calls, "threads": request.threads}
    done = {name: document.get(name) for name in asked}
    if done != asked:
        raise ValueError(f"timed with {done}; asked for {asked}")
    values = {name: document.get(name) for name in ("ratio", "ratio_stderr", "dense_ms", "pruned_ms")}
    numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
    positive = all(value > 0 or name == "ratio_stderr" for name, value in numbers.items())
    if len(numbers) < len(values) or not all(map(math.isfinite, numbers.values())) or not positive:
        raise ValueError(f"measured {values}; expected finite numbers above 0")
    return LatencyComparison(**numbers), LatencyHost.from_json({**document, "name": document.get("host")})
