"""Put a policy onto the budget, exactly, before anything is built.

The cost of a policy is closed-form and falls when any group keeps fewer channels. So a proposal is
scaled, all groups' kept channels by one common factor found by bisection, until the most it can keep
within the limits is reached; rounding then leaves a gap, which is filled one channel step at a time.
The result uses 98–100 % of the tightest limit wherever channel counts allow it, and never exceeds any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from autoprune.errors import BudgetError
from autoprune.metrics import BUDGET_GAP, METRICS, Budget, Measurement
from autoprune.policy import PruningPolicy
from autoprune.space import Kept, SearchSpace

FILL_TO = 1 - BUDGET_GAP
_BISECTIONS = 40


class Cost(Protocol):
    """Know the closed-form costs of channel counts."""

    def measure(self, kept: Kept) -> Measurement:
        """Return ``mflops``, ``mparams`` and ``size_mb``."""
        ...  # pragma: no cover


def closed_form_part(budget: Budget) -> Budget:
    """Return the limits that follow exactly from a policy."""
    return Budget({name: limit for name, limit in budget.limits.items() if METRICS[name].closed_form})


@dataclass(frozen=True)
class Projector:
    """Project policies onto a budget.

    Attributes:
        space: the channel counts that exist.
        cost: closed-form costs.
        budget: absolute limits; those without a closed form are ignored here.
    """

    space: SearchSpace
    cost: Cost
    budget: Budget

    def smallest(self) -> Measurement:
        """Return the costs of the smallest network of the space."""
        return self.cost.measure({name: counts[0] for name, counts in self.space.choices.items()})

    def usage(self, kept: Kept) -> float:
        """Return cost / limit for the tightest limit: at most 1 within the budget, 0 without a limit."""
        limits = closed_form_part(self.budget).limits
        found = self.cost.measure(kept)
        return max((found[name] / limit.value for name, limit in limits.items()), default=0.0)

    def project(self, policy: PruningPolicy, free: frozenset[str] | None = None) -> PruningPolicy:
        """Return the policy on the budget that is nearest in proportion.

        A policy that already uses 98–100 % of the budget is returned as it is (made canonical), and so
        is any policy if there is no closed-form limit.

        Args:
            policy: any policy over the space's groups.
            free: groups that may change; ``None`` for all. The others keep what the policy says.

        Raises:
            BudgetError: if the limits cannot be met by the free groups.
        """
        canonical = self.space.canonical(policy)
        wanted = {n: self.space.by_name[n].num_channels * (1 - g.sparsity) for n, g in policy.groups.items()}
        kept = self.fit({**self.space.kept(policy), **wanted}, free)
        return self.space.policy(kept, {name: group.importance for name, group in canonical.groups.items()})

    def fit(self, wanted: Mapping[str, float], free: frozenset[str] | None = None) -> dict[str, int]:
        """Return channel counts on the budget, in proportion to real-valued wishes.

        Args:
            wanted: group name → channels wished for, > 0.
            free: groups that may change; ``None`` for all.

        Raises:
            BudgetError: if the limits cannot be met by the free groups.
        """
        free = frozenset(wanted) if free is None else free
        asis = self._scaled(wanted, 1.0, free)
        if not closed_form_part(self.budget).limits or FILL_TO <= self.usage(asis) <= 1:
            return asis
        low, high = 0.0, max(self.space.by_name[n].num_channels / wanted[n] for n in wanted)
        if self.usage(self._scaled(wanted, low, free)) > 1:
            raise BudgetError(f"{len(free)} of {len(wanted)} groups alone cannot meet {self.budget.describe()}")
        if self.usage(self._scaled(wanted, high, free)) <= 1:
            return self._scaled(wanted, high, free)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.usage(self._scaled(wanted, middle, free)) <= 1 else (low, middle)
        return self._filled(self._scaled(wanted, low, free), {n: w * high for n, w in wanted.items()}, free)

    def _scaled(self, wanted: Mapping[str, float], factor: float, free: frozenset[str]) -> dict[str, int]:
        return {
            name: self.space.nearest(name, channels * factor if name in free else channels)
            for name, channels in wanted.items()
        }

    def _filled(self, kept: dict[str, int], wanted: Mapping[str, float], free: frozenset[str]) -> dict[str, int]:
        """Raise counts step by step while the budget allows, those furthest below their wish first."""
        moved = True
        while moved and self.usage(kept) < 1:
            moved = False
            order = sorted(free, key=lambda n: ((kept[n] - wanted[n]) / self.space.by_name[n].num_channels, n))
            for name in order:
                larger = {**kept, name: next((c for c in self.space.choices[name] if c > kept[name]), kept[name])}
                if larger[name] > kept[name] and self.usage(larger) <= 1:
                    kept, moved = larger, True
            if self.usage(kept) >= FILL_TO:
                break
        return kept
