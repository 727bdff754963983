"""Why trials failed: the same cause counted once, and when a cause is certain to strike the next candidate too.

Two failures have one cause if the same exception came from the same line, or, where no line is stored because the
error is deliberate, if its message differs in numbers alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.trial import Completed, Failed, Stopped, Trial

SURE = 3  # different candidates that fail for one cause, before any ever came through: the next would fail too
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Cause:
    """What some trials failed for.

    Attributes:
        error: the exception's class name.
        message: its first line, as the first of the trials has it.
        where: file and line that it came from; empty for a deliberate error.
        numbers: of the trials.
    """

    error: str
    message: str
    where: str
    numbers: tuple[int, ...]

    def describe(self) -> str:
        """Return the cause in words.

        >>> Cause("ValueError", "a bad shape", "net.py, line 3", (4,)).describe()
        'ValueError: a bad shape (net.py, line 3)'
        """
        said = f"{self.error}: {self.message}" if self.message else self.error
        return f"{said} ({self.where})" if self.where else said


def causes_of(trials: Sequence[Trial]) -> tuple[Cause, ...]:
    """Return what trials failed for, the most frequent cause first."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        if isinstance(trial.outcome, Failed):
            found.setdefault(_key(trial.outcome), []).append(trial)
    causes = [_cause(same) for same in found.values()]
    return tuple(sorted(causes, key=lambda cause: (-len(cause.numbers), cause.numbers)))


def failures_in_words(trials: Sequence[Trial]) -> str:
    """Return how many of the trials failed, and why; empty if none did."""
    causes = causes_of(trials)
    failed = sum(len(cause.numbers) for cause in causes)
    if not failed:
        return ""
    why = "; ".join(
        cause.describe() if len(causes) == 1 else f"{len(cause.numbers)} with {cause.describe()}"
        for cause in causes[:3]
    )
    left = len(causes) - 3
    more = f"; {left} more cause{'' if left == 1 else 's'}" if left > 0 else ""
    return f"{failed} of {len(trials)} trial{'' if len(trials) == 1 else 's'} failed: {why}{more}"


def sure_to_repeat(trials: Sequence[Trial], of_run: Sequence[Trial]) -> Cause | None:
    """Return the cause for which the next candidate would fail too; ``None`` if it may come through.

    Args:
        trials: every finished trial of the study: one that ever came through shows that another can.
        of_run: those of this run, in order: what an earlier run failed for may have been repaired.
    """
    last = of_run[-SURE:]
    causes, policies = causes_of(last), {trial.candidate.policy for trial in last}
    if len(last) < SURE or len(policies) < SURE or len(causes) != 1 or len(causes[0].numbers) < SURE:
        return None
    return None if any(isinstance(trial.outcome, Completed | Stopped) for trial in trials) else causes[0]


def _key(failed: Failed) -> tuple[str, str]:
    return failed.error, _line_of(failed) or _NUMBER.sub("#", failed.message)


def _line_of(failed: Failed) -> str:
    """Return where the error was raised, ``file, line N`` with the whole path; empty if no traceback is stored."""
    frames = list(_FRAME.finditer(failed.trace))
    return f"{frames[-1]['file']}, line {frames[-1]['line']}" if frames else ""


def _cause(same: Sequence[Trial]) -> Cause:
    first = same[0].outcome
    if not isinstance(first, Failed):
        raise TypeError(f"trial {same[0].number} did not fail; this is a bug in autoprune")
    lines = first.message.splitlines()
    place = _line_of(first).replace("\\", "/").rpartition("/")[2]
    return Cause(first.error, lines[0] if lines else "", place, tuple(trial.number for trial in same))
