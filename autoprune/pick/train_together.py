"""A rung of a contest whose contenders are trained at once: :class:`Together`, over whatever trains parts.

The baseline that the winner is compared with takes the same parts beside them, where it is known beforehand, so that
nobody waits for it at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError
from autoprune.pick.contest_parts import FinetunePart, PartTrainer, TrainedPart
from autoprune.pick.entrants import Course, Entrant
from autoprune.pick.uniform_rival import Incomparable


@dataclass
class Together:
    """The training of all contenders of a rung at once.

    Attributes:
        course: of the contest.
        trainer: trains the parts, into the memory of the course.
        rival: the baseline that will be finished too; ``None`` if that is not known beforehand.
    """

    course: Course
    trainer: PartTrainer
    rival: Trial | None
    _has_rival_failed: bool = field(default=False, init=False)

    def advance_all(self, entrants: Sequence[Entrant], first: float, last: float) -> list[Entrant]:
        """Return what :meth:`Course.advance` does of each entrant, in their order."""
        waiting = [entrant.trial for entrant in entrants if entrant.is_waiting]
        beside = self._rival_beside(entrants, last)
        parts = [FinetunePart(trial, first, last) for trial in (*waiting, *beside)]
        ended = self.trainer.train(parts, self.course.on_phase) if parts else []
        for each in ended:
            for phase, seconds in each.seconds.items():
                self.course.seconds[phase] = self.course.seconds.get(phase, 0.0) + seconds
        self._has_rival_failed |= any(each.failure for each in ended[len(waiting) :])
        found = dict(zip((trial.number for trial in waiting), ended, strict=False))
        return [self._after(entrant, found.get(entrant.trial.number), first, last) for entrant in entrants]

    def _after(self, entrant: Entrant, ended: TrainedPart | None, first: float, last: float) -> Entrant:
        if ended is None:
            return self.course.advance(entrant, first, last)
        if ended.failure is not None:
            return replace(entrant, network=None, failure=ended.failure)
        reached = self.course.caught_up(entrant)
        if len(reached.scores) != len(entrant.scores) + 1:
            raise EvaluationError(
                f"what was trained of trial {entrant.trial.number} was not kept, as on a full disk; free it, and run "
                f"the same command again"
            )
        return reached

    def _rival_beside(self, entrants: Sequence[Entrant], last: float) -> list[Trial]:
        """Return the rival if it has to be trained, and is no contender that still runs."""
        if self.rival is None or self._has_rival_failed:
            return []
        if any(entrant.trial.candidate.policy == self.rival.candidate.policy for entrant in entrants):
            return []
        before = self.course.memory.reached(self.rival)
        return [] if before is not None and before.scores[-1][0] >= last else [self.rival]


def likely_rival(trials: Sequence[Trial], rival_of: Callable[[Trial], Trial | Incomparable]) -> Trial | None:
    """Return the baseline that every contender but itself would be compared with; ``None`` if there is no such one.

    Args:
        trials: the contenders. One of the same policy stands for the baseline.
        rival_of: a winner → its rival, or why it has none.
    """
    found = {rival.number: rival for trial in trials if isinstance(rival := rival_of(trial), Trial)}
    if len(found) != 1:
        return None
    (rival,) = found.values()
    return next((trial for trial in trials if trial.candidate.policy == rival.candidate.policy), rival)
