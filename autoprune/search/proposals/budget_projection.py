"""Put a policy onto the budget, exactly, before anything is built.

The cost of a policy is closed-form and falls when any group keeps fewer channels. So a proposal is
scaled, all groups' kept channels by one common factor found by bisection, until the most it can keep
within the limits is reached; rounding then leaves a gap, which is filled one channel step at a time.
The result uses 98–100 % of the tightest limit wherever channel counts allow it, and never exceeds any.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.core.metrics import BUDGET_GAP, METRICS, Budget, Limit, Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import MASK_UNITS, Kept, SearchSpace, mask_key
from autoprune.errors import BudgetError

FILL_TO = 1 - BUDGET_GAP
_BISECTIONS = 40
_EXCHANGED = 4  # steps that one count may fall so that another can rise


class Cost(Protocol):
    """Know the closed-form costs of channel counts."""

    def measure(self, kept: Kept) -> Measurement:
        """Return ``mflops``, ``mparams`` and ``size_mb``."""
        ...  # pragma: no cover

    def measure_many(self, names: Sequence[str], counts: NDArray[np.int64]) -> Mapping[str, NDArray[np.float64]]:
        """Return the same of many policies, metric → ``(n,)``; row i of ``counts`` says what policy i keeps."""
        ...  # pragma: no cover


def closed_form_part(budget: Budget, predicted: frozenset[str] = frozenset()) -> Budget:
    """Return the limits that follow exactly from a policy, and those on predicted metrics."""
    known = {name for name, metric in METRICS.items() if metric.closed_form} | predicted
    return Budget({name: limit for name, limit in budget.limits.items() if name in known})


@dataclass(frozen=True)
class Projector:
    """Project policies onto a budget.

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

    @property
    def limits(self) -> Mapping[str, Limit]:
        """Return the limits that are met here: those that follow from a policy, and predicted ones."""
        return closed_form_part(self.budget, self.predicted).limits

    def measure_full(self) -> Measurement:
        """Return the costs of the dense network."""
        return self.cost.measure(self.space.full)

    def smallest(self) -> Measurement:
        """Return the costs of the smallest network of the space."""
        return self.cost.measure({name: counts[0] for name, counts in self.space.choices.items()})

    def usage(self, kept: Kept) -> float:
        """Return cost / limit for the tightest limit: at most 1 within the budget, 0 without a limit."""
        found = self.cost.measure(kept)
        return max((found[name] / limit.value for name, limit in self.limits.items()), default=0.0)

    def usages(self, names: Sequence[str], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the same of many policies at once, shape ``(n,)``.

        Args:
            names: what the columns stand for; what is not named stays whole.
            counts: what stays, shape ``(n, len(names))``.
        """
        found = self.cost.measure_many(names, counts)
        shares = [found[name] / limit.value for name, limit in self.limits.items()]
        return np.max(shares, axis=0) if shares else np.zeros(len(counts))

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
        wanted = {n: self.space.full[n] * (1 - g.sparsity) for n, g in policy.groups.items()}
        if policy.mask:
            wanted |= {mask_key(layer): MASK_UNITS * (1 - s) for layer, s in policy.mask.layers.items()}
        kept = self.fit(self._with_blocks({**self.space.kept(policy), **wanted}), free)
        importances = {name: group.importance for name, group in canonical.groups.items()}
        return self.space.policy(kept, importances, canonical.mask.criterion if canonical.mask else "")

    def _with_blocks(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Return the wishes with blocks dropped until the budget can be met, or put back until it can be filled."""
        wanted = dict(wanted)
        if not self.space.blocks or not self.limits:
            return wanted
        smallest = {name: float(counts[0]) for name, counts in self.space.choices.items()}

        def usage_of(counts: Mapping[str, float], blocks: Mapping[str, float]) -> float:
            return self.usage({n: int(blocks[n] if n in self.space.block_names else c) for n, c in counts.items()})

        while usage_of(smallest, wanted) > 1:
            whole = [name for name in sorted(self.space.block_names) if wanted[name]]
            if not whole:
                break
            saving = {name: usage_of(smallest, {**wanted, name: 0}) for name in whole}
            wanted[min(whole, key=lambda name: (saving[name], name))] = 0
        gone = [name for name in self.space.block_names if not wanted[name]]
        for name in sorted(gone, key=lambda name: zlib.crc32(f"{sorted(gone)}{name}".encode())):
            if usage_of(self.space.full, wanted) >= FILL_TO:
                break
            if usage_of(smallest, {**wanted, name: 1}) <= 1:
                wanted[name] = 1
        return wanted

    def fit(self, wanted: Mapping[str, float], free: frozenset[str] | None = None) -> dict[str, int]:
        """Return counts on the budget, in proportion to real-valued wishes.

        Args:
            wanted: group → channels wished for, or layer's mask → units, > 0; block → 1 or 0. What is missing is
                wished for whole.
            free: what may change; ``None`` for all groups, and for masks if non-zero weights are budgeted.

        Raises:
            BudgetError: if the limits cannot be met by what is free.
        """
        free = self._free() if free is None else free
        wanted = {name: wanted.get(name, count) for name, count in self.space.full.items()}
        asis = self._scaled(wanted, 1.0, free)
        if not self.limits or FILL_TO <= self.usage(asis) <= 1:
            return self.space.settled(asis)
        low, high = 0.0, max((self.space.full[n] / wanted[n] for n in free), default=1.0)
        if self.usage(self._scaled(wanted, low, free)) > 1:
            raise BudgetError(f"{len(free)} of {len(wanted)} groups alone cannot meet {self.budget.describe()}")
        if self.usage(self._scaled(wanted, high, free)) <= 1:
            return self.space.settled(self._scaled(wanted, high, free))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.usage(self._scaled(wanted, middle, free)) <= 1 else (low, middle)
        return self._filled(self._scaled(wanted, low, free), {n: wanted[n] * high for n in free}, free)

    def _free(self) -> frozenset[str]:
        """Return what may be scaled: every group, and every mask if some limit is on non-zero weights."""
        masked = any(name.startswith("nonzero") for name in self.budget.limits)
        masks = self.space.mask.layers if self.space.mask and masked else ()
        return frozenset(self.space.by_name) | {mask_key(layer) for layer in masks}

    def _scaled(self, wanted: Mapping[str, float], factor: float, free: frozenset[str]) -> dict[str, int]:
        return {
            name: self.space.nearest(name, channels * factor if name in free else channels)
            for name, channels in wanted.items()
        }

    def _filled(self, kept: dict[str, int], wanted: Mapping[str, float], free: frozenset[str]) -> dict[str, int]:
        """Raise counts step by step while the budget allows, those furthest below their wish first."""
        kept, moved = self.space.settled(kept), True
        while moved and self.usage(kept) < 1:
            moved = False
            order = sorted(free, key=lambda n: ((kept[n] - wanted[n]) / self.space.full[n], n))
            for name in order:
                larger = {**kept, name: next((c for c in self.space.choices[name] if c > kept[name]), kept[name])}
                if larger[name] > kept[name] and self.usage(larger) <= 1:
                    kept, moved = larger, True
            if self.usage(kept) >= FILL_TO:
                break
        return kept if self.usage(kept) >= FILL_TO else self._exchanged(kept, sorted(free))

    def _exchanged(self, kept: dict[str, int], names: Sequence[str]) -> dict[str, int]:
        """Return the counts with one raised by a step and another lowered by a few, where that fills the budget.

        A step of a residual stream alone may be wider than the gap that is left.
        """
        trades = [
            {**kept, up: raised, down: lowered}
            for up in names
            if (raised := next((c for c in self.space.choices[up] if c > kept[up]), None)) is not None
            for down in names
            if down != up
            for lowered in [c for c in self.space.choices[down] if c < kept[down]][-_EXCHANGED:]
        ]
        if not trades:
            return kept
        order = list(kept)
        usages = self.usages(order, np.array([[trade[name] for name in order] for trade in trades], dtype=np.int64))
        fitting = np.flatnonzero((usages <= 1) & (usages >= FILL_TO))
        return trades[fitting[np.argmax(usages[fitting])]] if len(fitting) else kept
