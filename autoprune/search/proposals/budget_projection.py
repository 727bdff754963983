"""Put a policy onto the budget, exactly, before anything is built.

The cost of a policy is closed-form and falls when any group keeps fewer channels. So a proposal is
scaled, all groups' kept channels by one common factor found by bisection, until the most it can keep
within the limits is reached; rounding then leaves a gap, which is filled one channel step at a time.
The result uses 98–100 % of the tightest limit wherever channel counts allow it, and never exceeds any.

A predicted latency need not fall with every channel: odd widths can take longer. So under such a limit the same is done
on multiples of what kernels take together, and that is taken by which most multiply–accumulates stay.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import MASK_UNITS, ChannelCounts
from autoprune.core.kernel_widths import KERNEL_WIDTHS
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import BUDGET_GAP, METRICS
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.errors import BudgetError
from autoprune.search.proposals.wished_counts import Part, WishedCounts

FILL_TO = 1 - BUDGET_GAP
_BISECTIONS = 40
_DIGITS = 9  # of shares of a limit that are compared, so that blocks alike are told apart by name and not by rounding
_EXCHANGED = 4  # steps that one count may fall so that another can rise


class Cost(Protocol):
    """Closed-form costs of channel counts."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        """Return ``mflops``, ``mparams`` and ``size_mb``."""
        ...  # pragma: no cover

    def measure_many(self, names: Sequence[str], counts: Ints) -> Mapping[str, Floats]:
        """Return the same of many policies, metric → ``(n,)``; row i of ``counts`` says what policy i keeps."""
        ...  # pragma: no cover


def closed_form_part(budget: Budget, predicted: frozenset[str] = frozenset()) -> Budget:
    """Return the limits that follow exactly from a policy, and those on predicted metrics."""
    known = {name for name, metric in METRICS.items() if metric.closed_form} | predicted
    return Budget({name: limit for name, limit in budget.limits.items() if name in known})


@dataclass(frozen=True)
class Projector:
    """What brings policies onto a budget.

    Attributes:
        space: the channel counts that exist.
        cost: closed-form costs.
        budget: absolute limits; those without a closed form are ignored here, but for the predicted ones.
        predicted: metrics without a closed form that ``cost`` predicts, as ``study.latency`` does.
    """

    space: SearchSpace
    cost: Cost
    budget: Budget
    predicted: frozenset[str] = frozenset()

    @cached_property
    def limits(self) -> Mapping[str, Limit]:
        """Return the limits that are met here: those that follow from a policy, and predicted ones."""
        return closed_form_part(self.budget, self.predicted).limits

    def measure_full(self) -> Measurement:
        """Return the costs of the dense network."""
        return self.cost.measure(self.space.full)

    def smallest(self) -> Measurement:
        """Return the costs of the smallest network of the space."""
        return self.cost.measure(self.space.smallest)

    @cached_property
    def _multiples(self) -> tuple[int, ...]:
        """Return the multiples on which counts are looked for."""
        return (1, *KERNEL_WIDTHS) if self.predicted else (1,)

    @cached_property
    def _narrowest(self) -> tuple[ChannelCounts, ...]:
        """Return the narrowest counts on each multiple, with all blocks."""
        whole, parts = WishedCounts.of(self.space.full), self._parts(None)
        return tuple(whole.scaled(0.0, parts, self.space, multiple) for multiple in self._multiples)

    @cached_property
    def _smallest_costs(self) -> tuple[Measurement, ...]:
        """Return the costs of the smallest network on each multiple."""
        smallest = (replace(one, dropped_blocks=self.space.block_names) for one in self._narrowest)
        return tuple(self.cost.measure(one) for one in smallest)

    def least(self, cost: str) -> float:
        """Return the least that a cost can be while the other limits are met; if they can't be, the least of all."""
        others = [(name, limit.value) for name, limit in self.limits.items() if name != cost]
        meeting = [one for one in self._smallest_costs if all(one[name] <= value for name, value in others)]
        return min(one[cost] for one in meeting or self._smallest_costs)

    def lowest(self) -> Mapping[str, float]:
        """Return limits that one and the same network just meets, for each cost that is limited."""
        best = min(self._smallest_costs, key=self._share)
        return {name: best[name] for name in self.limits}

    def usage(self, counts: ChannelCounts) -> float:
        """Return cost / limit for the tightest limit: at most 1 within the budget, 0 without a limit."""
        return self._share(self.cost.measure(counts))

    def _share(self, costs: Measurement) -> float:
        return max((costs[name] / limit.value for name, limit in self.limits.items()), default=0.0)

    def usages(self, names: Sequence[str], numbers: Ints) -> Floats:
        """Return the same of many policies at once, shape ``(n,)``.

        Args:
            names: groups and blocks that the columns stand for; what is not named stays whole.
            numbers: channels of a group, 1 or 0 for a block, shape ``(n, len(names))``.
        """
        found = self.cost.measure_many(names, numbers)
        shares = [found[name] / limit.value for name, limit in self.limits.items()]
        return np.max(shares, axis=0) if shares else np.zeros(len(numbers))

    def project(self, policy: PruningPolicy, free: frozenset[str] | None = None) -> PruningPolicy:
        """Return the policy on the budget that is nearest in proportion.

        A policy that already uses 98–100 % of the budget is returned as it is (made canonical), and so is any policy
        if there is no closed-form limit. Blocks stay as the policy has them, unless the budget cannot be met or
        filled that way: then those are dropped that save most, or some are put back.

        Args:
            policy: any policy over the space.
            free: groups that may change; ``None`` for all. The others keep what the policy says.

        Raises:
            BudgetError: if the limits cannot be met by what is free.
        """
        canonical = self.space.canonical(policy)
        masked = policy.mask.layers if policy.mask else {}
        wanted = WishedCounts(
            {name: self.space.full.channels[name] * (1 - group.sparsity) for name, group in policy.groups.items()},
            frozenset(policy.dropped_blocks),
            {layer: MASK_UNITS * (1 - sparsity) for layer, sparsity in masked.items()},
        )
        importances = {name: group.importance for name, group in canonical.groups.items()}
        criterion = canonical.mask.criterion if canonical.mask else ""
        return self.space.policy(self.onto_budget(wanted, free), importances, criterion)

    def onto_budget(self, wanted: WishedCounts, free: frozenset[str] | None = None) -> ChannelCounts:
        """Return counts on the budget, in proportion to wishes.

        Blocks are dropped where the budget cannot be met otherwise, and come back where it cannot be filled.

        Args:
            wanted: wishes.
            free: groups that may change; ``None`` for all.

        Raises:
            BudgetError: if the limits cannot be met by what is free.
        """
        return self.fit(self._with_blocks(wanted.named(self.space)), free)

    def _with_blocks(self, wanted: WishedCounts) -> WishedCounts:
        """Return the wishes with blocks dropped until the budget can be met, or put back until it can be filled."""
        if not self.space.blocks or not self.limits:
            return wanted
        dropped = wanted.dropped_blocks
        while self._least_usages([dropped])[0] > 1:
            whole = sorted(self.space.block_names - dropped)
            if not whole:
                break
            without = self._least_usages([dropped | {name} for name in whole])
            dropped |= {whole[int(np.argmin(np.round(without, _DIGITS)))]}
        gone = sorted(dropped)
        for name in sorted(gone, key=lambda name: zlib.crc32(f"{gone}{name}".encode())):
            if self.usage(replace(self.space.full, dropped_blocks=dropped)) >= FILL_TO:
                break
            if self._least_usages([dropped - {name}])[0] <= 1:
                dropped -= {name}
        return replace(wanted, dropped_blocks=dropped)

    def _least_usages(self, dropped: Sequence[frozenset[str]]) -> Floats:
        """Return what the narrowest network uses without some blocks, on the multiple on which it uses least.

        Args:
            dropped: names of blocks, for each number that is returned.
        """
        many = [replace(one, dropped_blocks=blocks) for blocks in dropped for one in self._narrowest]
        return np.asarray(self._usages_of(many).reshape(len(dropped), -1).min(axis=1))

    def fit(self, wanted: WishedCounts, free: frozenset[str] | None = None) -> ChannelCounts:
        """Return counts on the budget, in proportion to wishes; blocks stay as they are.

        Args:
            wanted: wishes.
            free: groups that may change; ``None`` for all groups, and for masks if non-zero weights are budgeted.

        Raises:
            BudgetError: if the limits cannot be met by what is free.
        """
        parts, wanted = self._parts(free), wanted.named(self.space)
        asis = wanted.scaled(1.0, parts, self.space)
        if not self.limits or FILL_TO <= self.usage(asis) <= 1:
            return self.space.normalized(asis)
        found = [self._fit_on(multiple, wanted, parts) for multiple in self._multiples]
        fitting = [counts for counts in found if counts is not None]
        if not fitting:
            count = len(self.space.cut_names) + len(self.space.mask_choices)
            raise BudgetError(f"{len(parts)} of {count} groups alone cannot meet {self.budget.describe()}")
        return max(fitting, key=lambda counts: self.cost.measure(counts)["mflops"]) if len(fitting) > 1 else fitting[0]

    def _fit_on(self, multiple: int, wanted: WishedCounts, parts: Sequence[Part]) -> ChannelCounts | None:
        """Return the counts on a multiple nearest to wishes in proportion; ``None`` if none meet the limits."""

        def scaled(factor: float) -> ChannelCounts:
            return wanted.scaled(factor, parts, self.space, multiple)

        low, high = 0.0, max((part.choices(self.space)[-1] / part.wished(wanted) for part in parts), default=1.0)
        if self.usage(scaled(low)) > 1:
            return None
        if self.usage(scaled(high)) <= 1:
            return self.space.normalized(scaled(high))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.usage(scaled(middle)) <= 1 else (low, middle)
        return self._filled(scaled(low), {part: part.wished(wanted) * high for part in parts}, multiple)

    def _parts(self, groups: frozenset[str] | None) -> tuple[Part, ...]:
        """Return what may be scaled: these groups; or all, and every mask if non-zero weights are limited."""
        if groups is not None:
            return tuple(Part(name, is_mask=False) for name in groups)
        masked = any(name.startswith("nonzero") for name in self.budget.limits)
        masks = [Part(layer, is_mask=True) for layer in self.space.mask_choices] if masked else []
        return (*(Part(name, is_mask=False) for name in self.space.by_name), *masks)

    def _filled(self, counts: ChannelCounts, wanted: Mapping[Part, float], multiple: int) -> ChannelCounts:
        """Raise counts on a multiple step by step while the budget allows, those furthest below their wish first."""
        counts, moved = self.space.normalized(counts), True
        while moved and self.usage(counts) < 1:
            moved = False
            distance = {p: (p.of(counts) - wish) / p.choices(self.space)[-1] for p, wish in wanted.items()}
            for part in sorted(wanted, key=lambda part: (distance[part], part.label)):
                now = part.of(counts)
                whole = part.choices(self.space)[-1]
                on = (one for one in part.choices(self.space) if one > now and (one == whole or one % multiple == 0))
                above = next(on, now)
                if above > now and self.usage(larger := part.at(counts, above)) <= 1:
                    counts, moved = larger, True
            if self.usage(counts) >= FILL_TO:
                break
        if multiple > 1 or self.usage(counts) >= FILL_TO:
            return counts
        return self._exchanged(counts, sorted(wanted, key=lambda part: part.label))

    def _exchanged(self, counts: ChannelCounts, parts: Sequence[Part]) -> ChannelCounts:
        """Return the counts with one raised by a step and another lowered by a few, where that fills the budget.

        A step of a residual stream alone may be wider than the gap that is left.
        """
        trades = [
            down.at(up.at(counts, raised), lowered)
            for up in parts
            if (raised := next((c for c in up.choices(self.space) if c > up.of(counts)), None)) is not None
            for down in parts
            if down != up
            for lowered in [c for c in down.choices(self.space) if c < down.of(counts)][-_EXCHANGED:]
        ]
        if not trades:
            return counts
        usages = self._usages_of(trades)
        fitting = np.flatnonzero((usages <= 1) & (usages >= FILL_TO))
        return trades[fitting[np.argmax(usages[fitting])]] if len(fitting) else counts

    def _usages_of(self, many: Sequence[ChannelCounts]) -> Floats:
        if self.space.mask:  # zeros are counted one by one
            return np.array([self.usage(counts) for counts in many])
        numbers = [list(self.space.cut_numbers(counts).values()) for counts in many]
        return self.usages(self.space.cut_names, np.array(numbers, dtype=np.int64))
