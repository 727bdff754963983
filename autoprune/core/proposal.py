"""A policy that is proposed, before it has a number."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy


@dataclass(frozen=True)
class Proposal:
    """A policy with its counts, its origin, and the budget it was made for.

    Attributes:
        policy: what to prune, canonical.
        counts: what stays then, everything named.
        origin: where it comes from: ``"baseline:uniform"``, ``"guided:drawn"``, ``"sampler:tpe"`` …
        budget: the absolute limits it lies on.
    """

    policy: PruningPolicy
    counts: ChannelCounts
    origin: str
    budget: Budget = field(default_factory=Budget)
