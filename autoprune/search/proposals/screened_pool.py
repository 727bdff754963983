"""The networks that were looked at without training, as a source of proposals and as evidence for the loss model.

Which of them becomes a trial is decided by Thompson sampling: the loss that each is expected to end with is drawn, as
widely as looks have missed final losses so far, and the lowest draw wins. So the best go first, and doubtful ones as
often as there is reason to doubt.

Source: Thompson 1933; Russo et al. 2018, "A Tutorial on Thompson Sampling".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.analysis.foretelling import Foretelling, estimated_rises, foretelling
from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget
from autoprune.core.proposal import Proposal
from autoprune.core.screened import ScreenedNetwork
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Trial
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.elites import FULL_USE
from autoprune.search.proposals.latency_aim import LatencyAim
from autoprune.search.proposals.loss_model import Evidence

FASTER_SHARE = 0.45  # of the proposals from here that are to take less time, where latency was predicted
_SIMILAR = (0.6, 1.05)  # cost / limit of what the loss model learns from
NEAR, NEARBY = 0.6, 0.75  # three of four faster ones take at least 60 % of what the fastest good network takes
_FAST_BAND = 0.8  # of a latency limit: what is faster still has given up more than was asked
ORIGIN = "screened"


@dataclass(frozen=True)
class ScreenedPool:
    """Screened networks of one study.

    Attributes:
        space: that they are of.
        networks: by number; may be empty.
        dense_loss: of the dense network on validation.
    """

    space: SearchSpace
    networks: tuple[ScreenedNetwork, ...] = ()
    dense_loss: float = 0.0

    @cached_property
    def rises(self) -> Floats:
        """Return what each network's rise is taken to be after a compensation pass, shape ``(n,)``."""
        return estimated_rises(self.networks)

    @cached_property
    def numbers(self) -> Ints:
        """Return channels of groups, and 1 or 0 for blocks, shape ``(n, num_names)``."""
        rows = [list(self.space.cut_numbers(one.counts).values()) for one in self.networks]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.space.cut_names))

    def usages(self, projector: Projector) -> Floats:
        """Return cost / limit of each network for the tightest limit, shape ``(n,)``; 1 without any limit."""
        if not projector.limits:
            return np.ones(len(self.networks))
        return projector.usages(self.space.cut_names, self.numbers)

    def foretelling(self, trials: Sequence[Trial]) -> Foretelling:
        """Return how well looks have foretold final losses so far."""
        return foretelling(self.networks, trials, self.space.full.channels, self.dense_loss)

    def propose(
        self,
        rng: np.random.Generator,
        trials: Sequence[Trial],
        projector: Projector,
        budget: Budget,
        is_taken: Callable[[Proposal], bool],
        aim: Callable[[], LatencyAim | None] = lambda: None,
    ) -> Proposal | None:
        """Return a screened network that uses up the budget; ``None`` if it is others' turn, or none is left.

        Args:
            rng: where chance comes from.
            trials: all finished ones; how well they were foretold decides how often it is the screening's turn.
            projector: onto the budget of this run.
            budget: that the proposal is for.
            is_taken: whether a network was evaluated already, or is being evaluated.
            aim: returns the fastest of the good networks, ``None`` if that is not known; asked only if it is needed.
        """
        told = self.foretelling(trials)
        if not self.networks or rng.random() >= told.share:
            return None
        usages = self.usages(projector)
        drawn = told.log_losses(self.rises, self.dense_loss) + rng.normal(0, told.deviation, len(self.networks))
        fits = (usages >= FULL_USE) & (usages <= 1)
        is_faster = rng.random() < FASTER_SHARE and self._has_latency
        known = aim() if self._has_latency else None
        if is_faster:
            fits = self._faster(usages <= 1, rng, known.fastest_ms if known is not None else None)
        elif known is not None and known.is_bounded:
            fits = (usages <= 1) & (self._latencies <= known.longest_ms)
        for place in sorted(np.flatnonzero(fits), key=lambda place: (drawn[place], place)):
            found = self._proposal(int(place), budget, is_faster)
            if not is_taken(found):
                return found
        return None

    def _proposal(self, place: int, budget: Budget, is_faster: bool) -> Proposal:
        one = self.networks[place]
        way = "faster" if is_faster else one.origin
        return Proposal(self.space.policy(one.counts), one.counts, f"{ORIGIN}:{way}", budget)

    @property
    def _has_latency(self) -> bool:
        return all("latency_ms" in one.costs.values for one in self.networks)

    @cached_property
    def _latencies(self) -> Floats:
        """Return what each network is predicted to take, in ms, shape ``(n,)``."""
        return np.array([one.costs["latency_ms"] for one in self.networks])

    def _faster(self, fits: NDArray[np.bool_], rng: np.random.Generator, fastest: float | None) -> NDArray[np.bool_]:
        """Return which of some networks are within a latency: a little below the fastest good network's, mostly.

        Else it is drawn between the least and the median of all.
        """
        latencies = self._latencies
        if not fits.any():
            return fits
        limit = rng.uniform(latencies[fits].min(), np.median(latencies[fits]))
        if fastest is not None and rng.random() < NEARBY:
            limit = max(float(latencies[fits].min()), float(rng.uniform(NEAR, 1.0)) * fastest)
        return np.asarray(fits & (latencies <= limit) & (latencies >= _FAST_BAND * limit), dtype=np.bool_)

    def evidence(self, known: Evidence, rises: Sequence[Floats], trials: Sequence[Trial], onto: Projector) -> Evidence:
        """Return the evidence of the trials with that of the screened networks of about the same cost.

        Args:
            known: of the trials.
            rises: of each group or block, one value for each of its counts.
            trials: all finished ones.
            onto: whose limits say which networks are alike.
        """
        usages = self.usages(onto)
        alike = np.flatnonzero((usages >= _SIMILAR[0]) & (usages <= _SIMILAR[1]))
        if not len(alike):
            return known
        foretold = self.foretelling(trials).log_losses(self.rises[alike], self.dense_loss)
        rows = np.column_stack([values[self._places[alike, name]] for name, values in enumerate(rises)])
        return Evidence(
            np.concatenate([known.rises, rows]),
            np.concatenate([known.criteria, np.zeros(rows.shape, dtype=np.int64)]),
            np.concatenate([known.log_losses, foretold]),
            known.num_criteria,
        )

    @cached_property
    def _places(self) -> Ints:
        """Return where each number is among the choices, shape as :attr:`numbers`."""
        choices = self.space.cut_choices.values()
        return np.column_stack(
            [np.searchsorted(known, row) for row, known in zip(self.numbers.T, choices, strict=True)]
        )
