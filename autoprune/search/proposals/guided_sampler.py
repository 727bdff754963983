"""Propose policies that start from the knapsack and deviate where the trials say so: the default sampler.

Five ways, by chance: a knapsack solved for weights drawn from what the trials teach (``loss_model``), boldly or
close to the best guess; a mutation of one of the best; a crossing of two of them; and the first way again for a lower
budget, so that one study serves later, smaller ones, or for a lower latency at the same budget, where latency is an
objective; then that comes most often, since budgets in FLOPs say little about time. Every proposal lies on its budget.
Where speed is preferred, no proposal may take longer than the dense network, and none much longer than a network that
is level with it once one is known: none can be expected to be better.

A proposal is a function of the study's seed, its number, and the stored trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy
from autoprune.core.proposal import Proposal
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Trial
from autoprune.search.proposals.breeding import inherited, mutated
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.elites import Elites
from autoprune.search.proposals.knapsack import CutChoices, Knapsack, Penalties, rises_of
from autoprune.search.proposals.latency_aim import LatencyAim
from autoprune.search.proposals.loss_model import Belief, Evidence, draw
from autoprune.search.proposals.screened_pool import NEAR, NEARBY, ScreenedPool
from autoprune.search.proposals.wished_counts import WishedCounts

Rng: TypeAlias = np.random.Generator
Made: TypeAlias = tuple[ChannelCounts, Mapping[str, str]]
"""Counts that need not lie on a budget, and group → criterion."""

ELITES = 5
_TRADES = 5  # rounds in the knapsack of a proposal
_BOLD, _TIMID = 1.0, 0.3
_DOUBT_MIXED = 0.1  # on a criterion's effect in one group, where a proposal mixes criteria
_LOWEST_SHARE = 0.5  # of the budget, that lower budgets are drawn down to
_HERE = 10  # attempts on this budget; where all were no use, as in a space of few policies, any lower one is tried
_WAYS = {"drawn": 0.5, "mutated": 0.15, "crossed": 0.1, "lower": 0.15, "faster": 0.1}
_WAYS_TO_SPEED = {"drawn": 0.3, "mutated": 0.1, "crossed": 0.05, "lower": 0.1, "faster": 0.45}


@dataclass(frozen=True)
class GuidedSampler:
    """The default source of proposals over one space.

    Attributes:
        space: groups and blocks; masks are left alone.
        sensitivity: measured curves; where there is none, the square of the sparsity stands for the rise.
        seed: the study's seed.
        screened: networks that were looked at without training, which the loss model learns from too; ``None``: none.
    """

    space: SearchSpace
    sensitivity: Sensitivity
    seed: int
    screened: ScreenedPool | None = None

    def propose(
        self,
        number: int,
        attempt: int,
        trials: Sequence[Trial],
        projector: Projector,
        budget: Budget,
        timed: Callable[[], Projector] | None = None,
        pending: Sequence[Candidate] = (),
        aim: LatencyAim | None = None,
    ) -> Proposal:
        """Return one proposal.

        Args:
            number: of the candidate.
            attempt: counts up if the last proposal was no use; from the eleventh on, all lower budgets are open.
            trials: what is stored.
            projector: onto the budget of this run; without limits a number of MFLOPs is drawn each time.
            budget: of this run, which the best networks were measured to meet; the projector's limits may be predicted.
            timed: the projector with a limit on predicted or assumed latency, if latency is traded; asked only if it is
                needed.
            pending: what is being evaluated; until it is known, it counts as no better than the others.
            aim: the fastest good network, if latency is traded and was learnt, and there is one.
        """
        rng = np.random.default_rng([self.seed, number, attempt])
        self.learn(trials, pending)
        bounded = aim if aim is not None and aim.is_bounded else None
        longest = math.inf if bounded is None else bounded.longest_measured_ms
        elites = self._elites.elites(budget, ELITES, longest)
        is_traded = timed is not None and "latency_ms" not in budget.limits
        ways = _WAYS_TO_SPEED if is_traded else _WAYS
        way = str(rng.choice(list(ways), p=list(ways.values())))
        if (way in ("mutated", "crossed") and len(elites) < 2) or (way == "faster" and timed is None):
            way = "drawn"
        onto = projector
        if bounded is not None and timed is not None and way != "faster":
            limited, longest_ms = timed(), float(rng.uniform(bounded.fastest_ms, bounded.longest_ms))
            onto = _up_to(limited, max(longest_ms, limited.least("latency_ms")))
        if way == "lower" or attempt >= _HERE or not projector.limits:
            share = _LOWEST_SHARE if attempt < _HERE else 0.0
            way, onto = "lower", replace(onto, budget=self._lower(onto, share, rng))
        elif way == "faster" and timed is not None:
            onto = self._faster(timed(), elites if bounded is None else (), rng)
        if way in ("mutated", "crossed"):
            first, second = (elites[int(i)] for i in rng.choice(len(elites), 2, replace=False))
            made = self._mutated(first, rng) if way == "mutated" else self._crossed(first, second, rng)
        else:
            belief = draw(self._evidence(trials, onto), rng, _BOLD if rng.random() < 0.5 else _TIMID)
            made = self._drawn(belief, onto, rng)
        return self._on_budget(*made, onto, way)

    def learn(self, trials: Sequence[Trial], pending: Sequence[Candidate]) -> None:
        """Take in what is stored, and what is being evaluated."""
        self._elites.read(trials)
        self._elites.expect(pending)

    def prepare(self, trials: Sequence[Trial], budget: Budget) -> None:
        """Do beforehand what takes longer the more is stored: learn, and find the best that use up a budget."""
        self.learn(trials, ())
        self._elites.elites(budget, ELITES)

    def _evidence(self, trials: Sequence[Trial], onto: Projector) -> Evidence:
        """Return what trials teach, and screened networks where there are any and losses have logarithms."""
        known = self._elites.evidence()
        if self.screened is None or not self._elites.has_logarithms:
            return known
        return self.screened.evidence(known, self._rises, trials, onto)

    def has_seen(self, proposal: Proposal) -> bool:
        """Return whether the same network is among the trials of the last proposal."""
        return self._elites.holds(proposal.counts, proposal.policy)

    # ways

    def _drawn(self, belief: Belief, onto: Projector, rng: Rng) -> Made:
        """Solve the knapsack for what a draw says that cuts cost."""
        penalties: Penalties = {
            name: belief.penalty(place, rises)
            for place, (name, rises) in enumerate(zip(self.space.cut_names, self._rises, strict=True))
        }
        counts = Knapsack(onto, _TRADES, self._choices).solve(penalties)
        return counts, self._criteria(belief, rng)

    def _criteria(self, belief: Belief, rng: Rng) -> dict[str, str]:
        """Return for each group the criterion that the draw makes best, with some chance for any other."""
        worth = {name: float(belief.criteria[place]) for place, name in enumerate(self._elites.criteria)}
        mixed = rng.random() < 0.5
        return {
            name: min(known, key=lambda criterion: worth[criterion] + (rng.normal(0, _DOUBT_MIXED) if mixed else 0.0))
            for name, known in self.space.importances.items()
        }

    def _mutated(self, parent: PruningPolicy, rng: Rng) -> Made:
        """Change how much a few groups keep, perhaps a block, and perhaps a criterion."""
        numbers = mutated(self.space, self.space.cut_numbers(self.space.counts(parent)), rng)
        criteria = {name: group.importance for name, group in parent.groups.items()}
        if rng.random() < 0.5 and self.space.by_name:
            changed = str(rng.choice(list(self.space.by_name)))
            criteria[changed] = str(rng.choice(self.space.importances[changed]))
        return self.space.of_cut_numbers(numbers), criteria

    def _crossed(self, one: PruningPolicy, other: PruningPolicy, rng: Rng) -> Made:
        """Take each group from either parent."""
        numbers, others = (self.space.cut_numbers(self.space.counts(parent)) for parent in (one, other))
        criteria = {name: group.importance for name, group in one.groups.items()}
        for name in inherited(self.space, rng):
            numbers[name] = others[name]
            if name in other.groups:
                criteria[name] = other.groups[name].importance
        return self.space.of_cut_numbers(numbers), criteria

    def _on_budget(self, counts: ChannelCounts, criteria: Mapping[str, str], onto: Projector, way: str) -> Proposal:
        """Return the proposal that lies on the budget, nearest to what was made."""
        counts = self.space.normalized(counts)
        criteria = self.space.effective_importances(counts, criteria)
        found = onto.onto_budget(WishedCounts.of(counts))
        return Proposal(self.space.policy(found, criteria), found, f"guided:{way}", onto.budget)

    def _lower(self, projector: Projector, lowest_share: float, rng: Rng) -> Budget:
        """Return a lower budget that can still be reached; without limits some number of MFLOPs."""
        limits = projector.limits
        if not limits:
            return Budget(
                {"mflops": _between(1.05 * projector.least("mflops"), projector.measure_full()["mflops"], rng)}
            )
        share = float(rng.uniform(lowest_share, 1.0))
        lowest = {name: min(limits[name].value, 1.05 * value) for name, value in projector.lowest().items()}
        return Budget({name: Limit(max(limit.value * share, lowest[name])) for name, limit in limits.items()})

    def _faster(self, timed: Projector, elites: Sequence[PruningPolicy], rng: Rng) -> Projector:
        """Return a projector whose latency limit lies below what the best networks within the budget take."""
        known = [timed.cost.measure(self.space.counts(policy))["latency_ms"] for policy in elites]
        usual = min([timed.budget.limits["latency_ms"].value, *known])
        least = 1.05 * timed.least("latency_ms")
        limit = _between(max(least, NEAR * usual) if rng.random() < NEARBY else least, usual, rng)
        return _up_to(timed, limit.value)

    # what is known

    @cached_property
    def _rises(self) -> list[NDArray[np.float64]]:
        """Return the rise of each count of each group or block."""
        return [rises_of(self.sensitivity, self.space, name) for name in self.space.cut_names]

    @cached_property
    def _choices(self) -> CutChoices:
        return CutChoices(self.space)

    @cached_property
    def _elites(self) -> Elites:
        return Elites(self.space, self.space.cut_names, self._rises)


def _up_to(timed: Projector, latency_ms: float) -> Projector:
    """Return a projector with another limit on latency."""
    return replace(timed, budget=Budget({**timed.budget.limits, "latency_ms": Limit(latency_ms)}))


def _between(low: float, high: float, rng: Rng) -> Limit:
    """Return a limit between two values, its logarithm uniform."""
    return Limit(float(np.exp(rng.uniform(math.log(low), math.log(max(low, high))))))
