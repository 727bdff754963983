"""What a screening looks at next: knapsacks first, then what evolves from the best on each level.

Each level of a part takes its turn. In the first quarter of the rounds the knapsack is solved for each level's budget,
as it was measured and then with what groups and blocks are worth changed at random, so that widths and depth are mixed.
Then the best on a level and on those beside it are mutated and crossed, and knapsacks are solved for what the looks so
far have taught. Every network lies on its level's budget.

A network is a function of the study's seed, its part, its step, and what was seen in the parts before and in this one.

Source: Real et al. 2019, "Regularized Evolution for Image Classifier Architecture Search", for evolution by mutation of
the best of a few.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autoprune.core.arrays import Floats
from autoprune.core.counts import ChannelCounts
from autoprune.core.screened import Kept, ScreenedNetwork, kept_of
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.errors import BudgetError
from autoprune.search.proposals.breeding import inherited, mutated
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.knapsack import Knapsack, rises_of
from autoprune.search.proposals.loss_model import EXPONENTS, Evidence, draw
from autoprune.search.proposals.screened_pool import ScreenedPool
from autoprune.search.proposals.wished_counts import WishedCounts
from autoprune.search.screening.budget_ladder import ScreeningPart

EXPLORED = 1 / 4  # of the rounds, before anything evolves
PARENTS = 4  # of a level, and as many from each beside it
_ATTEMPTS = 10  # at a network that was not looked at yet; a tiny space may have none left
_TRADES = 5  # rounds in the knapsack
_SPREAD = 0.3  # standard deviation of the logarithm of what a group is worth
_BLOCK_WEIGHT = 0.1  # a whole block is a large step, and mostly one too far
_BOLDNESS = (0.0, 0.3, 1.0)  # of what is drawn from what the looks taught
_WAYS = {"mutated": 0.4, "crossed": 0.3, "drawn": 0.3}


@dataclass(frozen=True)
class BulkProposal:
    """A network to look at: how it was made, what it keeps, and the projector of its level."""

    origin: str
    counts: ChannelCounts
    level: Projector


@dataclass(frozen=True)
class BulkProposals:
    """The source of a screening's networks.

    Attributes:
        space: groups and blocks.
        sensitivity: measured curves.
        seed: the study's seed.
        dense_loss: of the dense network on validation.
        known: counts that the run's own part begins with: the baselines.
    """

    space: SearchSpace
    sensitivity: Sensitivity
    seed: int
    dense_loss: float
    known: tuple[ChannelCounts, ...] = ()

    def propose(
        self, part: ScreeningPart, step: int, seen: Sequence[ScreenedNetwork], others: Collection[Kept] = ()
    ) -> BulkProposal | None:
        """Return the network of one step; ``None`` if nothing new was found.

        Args:
            part: of the screening.
            step: in that part, from 0.
            seen: every network so far.
            others: what is proposed beside it, and not seen yet.
        """
        have = {one.kept for one in seen} | set(others)
        is_runs_own, level = len(part.levels) == 1, part.levels[step % len(part.levels)]
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self.seed, zlib.crc32(part.name.encode()), step, attempt])
            if is_runs_own and step < len(self.known) and not attempt:
                origin, counts = "baseline", self.space.normalized(self.known[step])
            else:
                origin, counts = self._made(part, step, attempt, seen, rng)
                try:
                    counts = level.onto_budget(WishedCounts.of(self.space.normalized(counts)))
                except BudgetError:
                    continue  # the level lies just above the smallest network, and these blocks do not fit it
            counts = self.space.normalized(counts)
            if kept_of(counts) not in have and level.usage(counts) <= 1:
                return BulkProposal(origin, counts, level)
        return None

    def _made(
        self, part: ScreeningPart, step: int, attempt: int, seen: Sequence[ScreenedNetwork], rng: np.random.Generator
    ) -> tuple[str, ChannelCounts]:
        rounds, place = step // len(part.levels), step % len(part.levels)
        if len(part.levels) == 1:
            rounds -= len(self.known)
        parents = self._parents(part, place, seen)
        if rounds < max(1, EXPLORED * part.steps / len(part.levels)) or len(parents) < 2:
            return "knapsack", self._knapsack(part.levels[place], rng, is_plain=rounds == attempt == 0)
        way = str(rng.choice(list(_WAYS), p=list(_WAYS.values())))
        if way == "drawn":
            return way, self._drawn(part.levels[place], seen, rng)
        first, second = (self.space.cut_numbers(parents[int(i)]) for i in rng.choice(len(parents), 2, replace=False))
        if way == "mutated":
            return way, self.space.of_cut_numbers(mutated(self.space, first, rng, _BLOCK_WEIGHT))
        taken = inherited(self.space, rng)
        return way, self.space.of_cut_numbers({**first, **{name: second[name] for name in taken}})

    def _knapsack(self, level: Projector, rng: np.random.Generator, *, is_plain: bool) -> ChannelCounts:
        """Solve the knapsack as it was measured, or with what groups and blocks are worth changed at random."""
        power = 1.0 if is_plain else float(rng.choice(EXPONENTS))
        worth = np.ones(len(self._rises)) if is_plain else np.exp(rng.normal(0, _SPREAD, len(self._rises)))
        priced = zip(self.space.cut_names, self._rises, worth.tolist(), strict=True)
        return Knapsack(level, _TRADES).solve({name: factor * rises**power for name, rises, factor in priced})

    def _drawn(self, level: Projector, seen: Sequence[ScreenedNetwork], rng: np.random.Generator) -> ChannelCounts:
        """Solve the knapsack for a draw of what the looks so far say that cuts cost."""
        boldness = float(rng.choice(_BOLDNESS))
        return learnt_knapsack(self.space, self._rises, self._pool(seen), level, rng, boldness)

    def _pool(self, seen: Sequence[ScreenedNetwork]) -> ScreenedPool:
        return ScreenedPool(self.space, tuple(seen), self.dense_loss)

    def _parents(self, part: ScreeningPart, place: int, seen: Sequence[ScreenedNetwork]) -> list[ChannelCounts]:
        """Return the best few of a level and of those beside it; of the run's own part all that use about as much."""
        pool = self._pool(seen)
        rises = pool.rises.tolist()
        if len(part.levels) == 1:
            usages = pool.usages(part.levels[0])
            near = [one for one, used in zip(seen, usages.tolist(), strict=True) if 0.9 <= used <= 1.1]
            return [one.counts for one in _best(near, rises, 2 * PARENTS)]
        found = []
        for neighbour in (place - 1, place, place + 1):
            if 0 <= neighbour < len(part.levels):
                budget = part.levels[neighbour].budget
                of_level = [one for one in seen if one.part == part.name and one.budget == budget]
                found += [one.counts for one in _best(of_level, rises, PARENTS)]
        return found

    @cached_property
    def _rises(self) -> list[Floats]:
        return [rises_of(self.sensitivity, self.space, name) for name in self.space.cut_names]


def learnt_knapsack(
    space: SearchSpace,
    rises: Sequence[Floats],
    pool: ScreenedPool,
    level: Projector,
    rng: np.random.Generator,
    boldness: float = 1.0,
) -> ChannelCounts:
    """Return the knapsack for what networks that were looked at teach about cuts.

    Args:
        space: groups and blocks.
        rises: of each of them, one value for each of its counts.
        pool: networks that were looked at; those of about the level's cost are learnt from.
        level: the budget.
        rng: where chance comes from.
        boldness: 0 for the best guess, 1 for a draw as wide as the doubt.
    """
    none = Evidence(np.zeros((0, len(rises))), np.zeros((0, len(rises)), dtype=np.int64), np.zeros(0), 1)
    belief = draw(pool.evidence(none, rises, (), level), rng, boldness)
    pairs = enumerate(zip(space.cut_names, rises, strict=True))
    return Knapsack(level, _TRADES).solve({name: belief.penalty(place, curve) for place, (name, curve) in pairs})


def _best(networks: Sequence[ScreenedNetwork], rises: Sequence[float], count: int) -> list[ScreenedNetwork]:
    """Return the few of lowest rise; rises are by number."""
    return sorted(networks, key=lambda one: (rises[one.number], one.number))[:count]
