"""What can be pruned: groups of coupled channels, and the space of policies over them.

A :class:`PruningGroup` is found and proved by the workshop; here it is plain data, so that cost,
proposals and reports can be computed without the network. :class:`SearchSpace` translates between
policies and the flat parameters that a sampler proposes, and knows which channel counts exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from autoprune.errors import ModelError
from autoprune.policy import GroupPolicy, PruningPolicy

Side: TypeAlias = Literal["out", "in"]
Kept: TypeAlias = Mapping[str, int]


@dataclass(frozen=True)
class Member:
    """Say where the channels of a group live in one module.

    Attributes:
        module: module path.
        side: ``"out"`` for the channels a module produces (or normalises), ``"in"`` for those it reads.
        indices: the module's channel indices, channel-major: channel ``c`` of the group owns
            ``indices[c * width : (c + 1) * width]``.
        width: module channels per channel of the group; more than 1 after a flatten.
    """

    module: str
    side: Side
    indices: tuple[int, ...]
    width: int = 1

    def of(self, channel: int) -> tuple[int, ...]:
        """Return the module's indices that belong to one channel of the group."""
        return self.indices[channel * self.width : (channel + 1) * self.width]


@dataclass(frozen=True)
class PruningGroup:
    """Hold channels that must go together, as after a residual add or a concatenation.

    Attributes:
        name: module path of the first layer that produces them; stable across processes.
        num_channels: how many there are.
        members: every place where they appear.
        is_residual: whether several layers add into the same channels, as in a residual stream.
    """

    name: str
    num_channels: int
    members: tuple[Member, ...]
    is_residual: bool = False

    def producers(self) -> tuple[Member, ...]:
        """Return the members that produce the channels (norms included)."""
        return tuple(member for member in self.members if member.side == "out")


@dataclass(frozen=True)
class FrozenGroup:
    """Name a group that cannot be cut, with the reason in words a user understands."""

    name: str
    num_channels: int
    reason: str


@dataclass(frozen=True)
class Dimension:
    """Describe one parameter of the search space.

    Attributes:
        name: parameter name, ``"<group>.sparsity"`` or ``"<group>.importance"``.
        high: largest value of a number in [0, high]; 0 for a choice.
        choices: the values of a choice; empty for a number.
    """

    name: str
    high: float = 0.0
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class SearchSpace:
    """Hold every policy that the search may propose.

    Attributes:
        groups: what can be cut, in network order.
        importances: group name → criteria that can score it.
        max_sparsity: largest fraction of a group that may be removed, in (0, 1).
        round_to: kept channels are a multiple of this, where the group has that many.
    """

    groups: tuple[PruningGroup, ...]
    importances: Mapping[str, tuple[str, ...]]
    max_sparsity: float = 0.9
    round_to: int = 1

    def __post_init__(self) -> None:
        if not self.groups:
            raise ModelError(
                "no group of channels can be cut in this network, so there is nothing to search; "
                "`autoprune inspect` shows every group with the reason"
            )

    @cached_property
    def by_name(self) -> dict[str, PruningGroup]:
        """Return group name → group."""
        return {group.name: group for group in self.groups}

    @cached_property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Return group name → the channel counts that may be kept, ascending; the last is all of them."""
        return {group.name: self._choices(group.num_channels) for group in self.groups}

    def _choices(self, channels: int) -> tuple[int, ...]:
        least = max(1, math.ceil(round(channels * (1 - self.max_sparsity), 9)))
        counts = range(math.ceil(least / self.round_to) * self.round_to, channels, self.round_to)
        return (*counts, channels)

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the flat parameters, one or two per group that has a choice of counts.

        A group with a single criterion has no importance parameter, one with a single count none at all.
        """
        found = []
        for group in self.groups:
            counts, criteria = self.choices[group.name], self.importances[group.name]
            if len(counts) > 1:
                found.append(Dimension(f"{group.name}.sparsity", high=1 - counts[0] / group.num_channels))
                if len(criteria) > 1:
                    found.append(Dimension(f"{group.name}.importance", choices=criteria))
        return tuple(found)

    def decode(self, params: Mapping[str, float | str]) -> PruningPolicy:
        """Return the policy that flat parameters stand for; the inverse of :meth:`encode`."""
        groups = {}
        for group in self.groups:
            sparsity = params.get(f"{group.name}.sparsity", 0.0)
            importance = params.get(f"{group.name}.importance", self.importances[group.name][0])
            groups[group.name] = GroupPolicy(float(sparsity), str(importance))
        return PruningPolicy(groups, self.round_to)

    def encode(self, policy: PruningPolicy) -> dict[str, float | str]:
        """Return the flat parameters of a policy; the inverse of :meth:`decode` on canonical policies."""
        values: dict[str, float | str] = {}
        for name, group in self.canonical(policy).groups.items():
            values[f"{name}.sparsity"] = group.sparsity
            values[f"{name}.importance"] = group.importance
        return {dimension.name: values[dimension.name] for dimension in self.dimensions}

    def kept(self, policy: PruningPolicy) -> dict[str, int]:
        """Return group name → channels kept, the nearest count that exists (the larger of two equally near).

        Raises:
            ModelError: if the policy names a group that this network does not have.
        """
        unknown = sorted(set(policy.groups) - set(self.by_name))
        if unknown:
            raise ModelError(
                f"the policy names groups this network cannot cut: {', '.join(unknown[:5])}; "
                f"`autoprune inspect` lists those it has"
            )
        return {
            group.name: self.nearest(group.name, group.num_channels * (1 - policy.groups[group.name].sparsity))
            if group.name in policy.groups
            else group.num_channels
            for group in self.groups
        }

    def nearest(self, name: str, channels: float) -> int:
        """Return the existing channel count nearest to a real number of channels."""
        return min(self.choices[name], key=lambda count: (abs(count - channels), -count))

    def policy(self, kept: Kept, importances: Mapping[str, str]) -> PruningPolicy:
        """Return the canonical policy that keeps exactly these channel counts."""
        return PruningPolicy(
            {
                group.name: GroupPolicy(1 - kept[group.name] / group.num_channels, importances[group.name])
                for group in self.groups
            },
            self.round_to,
        )

    def canonical(self, policy: PruningPolicy) -> PruningPolicy:
        """Return the policy that says exactly what will be built: one sparsity per existing channel count.

        Raises:
            ModelError: if the policy names an unknown group.
        """
        importances = {
            group.name: policy.groups[group.name].importance
            if group.name in policy.groups
            else self.importances[group.name][0]
            for group in self.groups
        }
        return self.policy(self.kept(policy), importances)
