"""The part of a fine-tune that one contender is to take, as it is handed to whoever trains it.

``finishers`` trains parts in processes of their own; ``contest`` decides which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autoprune.core.trial import Trial
from autoprune.errors import EvaluationError

OnTrialPhase = Callable[[Trial, str], None]
"""Called with a trial, and in words what is going on with it."""


@dataclass(frozen=True)
class FinetunePart:
    """A part of a trial's longer fine-tune, from one share of it in [0, 1) to another in (0, 1]."""

    trial: Trial
    first: float
    last: float


@dataclass(frozen=True)
class TrainedPart:
    """How the training of a part ended.

    Attributes:
        failure: what the trial failed by; ``None`` if the memory of the pick holds it after that part.
        seconds: phase → seconds.
    """

    failure: EvaluationError | None
    seconds: Mapping[str, float]


class PartTrainer(Protocol):
    """What trains parts of several trials at once, each from where the memory of the pick has it."""

    def train(self, parts: Sequence[FinetunePart], on_phase: OnTrialPhase) -> list[TrainedPart]:
        """Return how each part ended, in their order.

        Raises:
            AutopruneError: if a part cannot be trained for another reason than the trial itself.
        """
