"""A candidate in whose evaluation processes die: noticed, and told as failed instead of being asked for ever.

A kernel that writes past its memory, or a user's own extension, takes the whole process down, and whoever takes the
candidate over dies of it too. The dying process itself leaves a mark, which Python's ``faulthandler`` writes at a
segmentation fault, an abort and their like. A kill from outside leaves none, so that what was only killed is evaluated
again however often.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.core.trial import Candidate, Failed
from autoprune.search.evaluation.evaluator import Evaluation
from autoprune.search.evaluation.stopwatch import OnPhase
from autoprune.search.loop import Evaluate

MOST_CRASHES = 2  # the second shows that it was no chance
_FRAMES = 3  # of the dying thread that are told


@dataclass(frozen=True)
class CrashWatch:
    """What evaluates candidates, but for those that two processes have died of on this machine.

    Attributes:
        evaluate: evaluates one.
        folder: where dying processes leave their marks; made when it is needed.
    """

    evaluate: Evaluate
    folder: Path

    def __call__(self, candidate: Candidate, on_phase: OnPhase, stopper: EarlyStopper) -> Evaluation:
        """Return the outcome of a candidate; one that two processes have died of has failed."""
        crashes = self._crashes(candidate)
        if len(crashes) >= MOST_CRASHES:
            return Evaluation(Failed("ProcessDied", _in_words(crashes)), {})
        with self._watched(candidate):
            return self.evaluate(candidate, on_phase, stopper)

    def _crashes(self, candidate: Candidate) -> list[Path]:
        """Return the marks of processes that died of a candidate; the empty ones of those that were killed go."""
        found = sorted(self.folder.glob(f"{_name(candidate)}-*.txt"))
        for path in found:
            with suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
        return [path for path in found if path.exists()]

    @contextmanager
    def _watched(self, candidate: Candidate) -> Iterator[None]:
        path = self.folder / f"{_name(candidate)}-{os.getpid()}.txt"
        try:
            self.folder.mkdir(exist_ok=True)
            mark = path.open("w", encoding="utf-8")
        except OSError:  # a full disk, or a study that is gone: told by whoever stores the outcome
            yield
            return
        try:
            with mark, _told_in(mark):
                yield
        finally:
            with suppress(OSError):
                path.unlink()


@contextmanager
def _told_in(mark: TextIO) -> Iterator[None]:
    """Let this process, if it dies meanwhile, write of what; afterwards where it did before."""
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(mark)
    try:
        yield
    finally:
        faulthandler.disable()
        if was_enabled:
            with suppress(OSError, ValueError, AttributeError, RuntimeError):
                faulthandler.enable(sys.__stderr__)  # type: ignore[arg-type]


def _name(candidate: Candidate) -> str:
    """Return what marks of a candidate begin with; of another study in the same folder it is another name."""
    policy = json.dumps(candidate.policy.to_json(), sort_keys=True)
    return f"{candidate.number}-{zlib.crc32(policy.encode()):08x}"


def _in_words(crashes: list[Path]) -> str:
    """Return what the last of some processes died of, and where."""
    last = crashes[-1]
    try:
        lines = [
            line.strip() for line in last.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
    except OSError:
        lines = []
    frames = [line for line in lines[1:] if line.startswith("File ")][:_FRAMES]
    cause = "; ".join([*lines[:1], *frames]) or "nobody knows of what"
    return (
        f"{len(crashes)} processes died while they evaluated it, the last of: {cause}. A library of this machine, or "
        f"code of your own, does not stand its network; {str(last)!r} holds the whole traceback"
    )
