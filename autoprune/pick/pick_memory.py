"""What a pick remembers on its way, so that one that is cut off can go on: a protocol, and the memory that forgets.

``resume`` holds the memory that lies on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from autoprune.core.trial import Trial
from autoprune.pick.final_scores import FinalScores
from autoprune.training.scoring import Score


@dataclass(frozen=True)
class Reached:
    """How far a contender has come: its network as it is then, and (share, score) of every part until then."""

    network: nn.Module
    scores: tuple[tuple[float, Score], ...]


class PickMemory(Protocol):
    """What a pick has done, kept so that one that is cut off can go on from there."""

    def reached(self, trial: Trial) -> Reached | None:
        """Return how far a trial came in an earlier pick of the same kind; ``None`` if it did not begin."""

    def keep_reached(self, trial: Trial, reached: Reached) -> None:
        """Keep how far a trial came."""

    def final_scores(self, name: str) -> FinalScores | None:
        """Return what an earlier pick of the same kind measured at the end, on test too; ``None`` if it did not."""

    def keep_final_scores(self, name: str, final_scores: FinalScores) -> None:
        """Keep what was measured at the end."""


class NoMemory:
    """A memory that keeps nothing."""

    def reached(self, trial: Trial) -> Reached | None:
        """Return nothing."""
        return None

    def keep_reached(self, trial: Trial, reached: Reached) -> None:
        """Forget it."""

    def final_scores(self, name: str) -> FinalScores | None:
        """Return nothing."""
        return None

    def keep_final_scores(self, name: str, final_scores: FinalScores) -> None:
        """Forget it."""
