"""What to prune: per group of coupled channels a sparsity and an importance criterion.

A policy is plain data: it says nothing about how channels are found or removed, and means the same
on any network that has the groups it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GroupPolicy:
    """Say how one group is pruned.

    Attributes:
        sparsity: fraction of the group's channels to remove, in [0, 1).
        importance: name of the criterion; the channels it scores lowest are removed.
    """

    sparsity: float
    importance: str

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is {self.sparsity}; it is the fraction removed and must be in [0, 1)")
        if not self.importance:
            raise ValueError("importance is empty; it must name a criterion, for example 'l1'")


@dataclass(frozen=True, eq=True)
class PruningPolicy:
    """Say how a whole network is pruned; groups that are not named stay as they are.

    Attributes:
        groups: group name → its policy.
        round_to: kept channels are a multiple of this where the group is large enough.
    """

    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    round_to: int = 1

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise ValueError(f"round_to is {self.round_to}; it must be at least 1")
        object.__setattr__(self, "groups", dict(sorted(self.groups.items())))

    def __hash__(self) -> int:
        return hash((tuple(self.groups.items()), self.round_to))

    @classmethod
    def uniform(cls, names: Iterable[str], sparsity: float, importance: str, round_to: int = 1) -> PruningPolicy:
        """Return the policy every paper compares with: one sparsity and one criterion everywhere.

        >>> PruningPolicy.uniform(["conv1"], 0.5, "l1").groups["conv1"]
        GroupPolicy(sparsity=0.5, importance='l1')
        """
        return cls({name: GroupPolicy(sparsity, importance) for name in names}, round_to)

    def to_json(self) -> str:
        """Return the policy as one line of JSON; :meth:`from_json` gives it back unchanged."""
        groups = {name: [group.sparsity, group.importance] for name, group in self.groups.items()}
        return json.dumps({"version": 1, "round_to": self.round_to, "groups": groups})

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> PruningPolicy:
        """Return the policy that :meth:`to_json` wrote.

        Raises:
            ValueError: if the text is not such a policy.
        """
        try:
            data = json.loads(text) if isinstance(text, str) else text
            if data["version"] != 1:
                raise ValueError(f"policy version is {data['version']}; this autoprune reads version 1")
            groups = {name: GroupPolicy(float(s), str(i)) for name, (s, i) in data["groups"].items()}
            return cls(groups, int(data["round_to"]))
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a pruning policy: {error!r}; expected the JSON that to_json() writes") from error
