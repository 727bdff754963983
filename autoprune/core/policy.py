"""What to prune: per group of coupled channels a sparsity and a criterion, which blocks go whole, and a mask.

A policy is plain data: it says nothing about how channels are found or removed, and means the same
on any network that has the groups it names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from autoprune.core.json_values import DAMAGE, parse_json

VERSION = 2
MASK_PATTERNS = ("weight", "2:4")
EVERY = "*"
"""Stands in a policy for every group that it does not name."""


@dataclass(frozen=True)
class GroupPolicy:
    """How one group is pruned.

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
class MaskPolicy:
    """Which weights are set to zero and stay zero; shapes stay dense.

    Attributes:
        pattern: ``"weight"``, any weights of a layer, or ``"2:4"``, two of every four along a row.
        criterion: how weights are ranked: ``"magnitude"``, ``"gradient"`` or ``"wanda"``.
        layers: module path → fraction of the layer's remaining weights set to zero, in [0, 1); 0.5 for 2:4.
    """

    pattern: str
    criterion: str
    layers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pattern not in MASK_PATTERNS:
            raise ValueError(f"pattern is {self.pattern!r}; a mask is one of {', '.join(MASK_PATTERNS)}")
        for layer, sparsity in self.layers.items():
            if not 0 <= sparsity < 1:
                raise ValueError(f"mask sparsity of {layer} is {sparsity}; it is a fraction and must be in [0, 1)")
        object.__setattr__(self, "layers", dict(sorted(self.layers.items())))

    def __hash__(self) -> int:
        return hash((self.pattern, self.criterion, tuple(self.layers.items())))


@dataclass(frozen=True, eq=True)
class PruningPolicy:
    """How a whole network is pruned; what is not named stays as it is.

    Attributes:
        groups: group name → its policy; ``"*"`` stands for every group that is not named.
        round_to: kept channels are a multiple of this where the group is large enough.
        dropped_blocks: names of residual blocks that go whole.
        mask: which of the remaining weights are zero; ``None`` for none.
    """

    groups: Mapping[str, GroupPolicy] = field(default_factory=dict)
    round_to: int = 1
    dropped_blocks: tuple[str, ...] = ()
    mask: MaskPolicy | None = None

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise ValueError(f"round_to is {self.round_to}; it must be at least 1")
        object.__setattr__(self, "groups", dict(sorted(self.groups.items())))
        object.__setattr__(self, "dropped_blocks", tuple(sorted(set(self.dropped_blocks))))

    def __hash__(self) -> int:
        return hash((tuple(self.groups.items()), self.round_to, self.dropped_blocks, self.mask))

    @classmethod
    def uniform(
        cls, sparsity: float, importance: str = "l2", *, names: Iterable[str] = (EVERY,), round_to: int = 1
    ) -> PruningPolicy:
        """Return the policy every paper compares with: one sparsity and one criterion everywhere.

        Args:
            sparsity: fraction of every group's channels to remove, in [0, 1).
            importance: name of the criterion.
            names: of the groups; by default all that the network turns out to have.
            round_to: kept channels are a multiple of this where the group is large enough.

        Raises:
            ValueError: if the sparsity is no number in [0, 1).

        >>> PruningPolicy.uniform(0.5, "l1", names=["conv1"]).groups["conv1"]
        GroupPolicy(sparsity=0.5, importance='l1')
        """
        if not isinstance(sparsity, int | float):
            raise ValueError(
                f"sparsity is {sparsity!r}; it is the fraction removed, and groups are given as names: "
                f"uniform(0.5, names=['conv1'])"
            )
        return cls({name: GroupPolicy(sparsity, importance) for name in names}, round_to)

    def on(self, names: Iterable[str]) -> PruningPolicy:
        """Return the policy on a network with these groups: what it says of every group is written out for each.

        >>> PruningPolicy.uniform(0.5).on(["conv1"]).groups
        {'conv1': GroupPolicy(sparsity=0.5, importance='l2')}
        """
        if EVERY not in self.groups:
            return self
        named = {name: group for name, group in self.groups.items() if name != EVERY}
        return replace(self, groups={**dict.fromkeys(names, self.groups[EVERY]), **named})

    @property
    def criteria(self) -> list[str]:
        """Return the criteria that rank channels of the groups that lose any, by name."""
        return sorted({group.importance for group in self.groups.values() if group.sparsity})

    def to_json(self) -> str:
        """Return the policy as one line of JSON; :meth:`from_json` gives it back unchanged."""
        groups = {name: [group.sparsity, group.importance] for name, group in self.groups.items()}
        data: dict[str, object] = {"version": VERSION, "round_to": self.round_to, "groups": groups}
        if self.dropped_blocks:
            data["dropped_blocks"] = list(self.dropped_blocks)
        if self.mask is not None:
            data["mask"] = {
                "pattern": self.mask.pattern,
                "criterion": self.mask.criterion,
                "layers": dict(self.mask.layers),
            }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> PruningPolicy:
        """Return the policy that :meth:`to_json` wrote, now or in version 1.

        Raises:
            ValueError: if the text is not such a policy.
        """
        try:
            data = parse_json(text) if isinstance(text, str) else text
            if data["version"] not in (1, VERSION):
                raise ValueError(f"policy version is {data['version']}; this autoprune reads 1 and {VERSION}")
            groups = {name: _group(float(s), str(i)) for name, (s, i) in data["groups"].items()}
            blocks = tuple(str(name) for name in data.get("dropped_blocks", ()))
            return cls(groups, int(data["round_to"]), blocks, _mask_from(data.get("mask")))
        except DAMAGE as error:
            raise ValueError(f"not a pruning policy: {error!r}; expected the JSON that to_json() writes") from error


@lru_cache(maxsize=4096)
def _group(sparsity: float, importance: str) -> GroupPolicy:
    """Return one group's policy, the same object for the same values: thousands of trials share few of them."""
    return GroupPolicy(sparsity, importance)


def _mask_from(data: Mapping[str, Any] | None) -> MaskPolicy | None:
    if data is None:
        return None
    layers = {str(layer): float(sparsity) for layer, sparsity in data["layers"].items()}
    return MaskPolicy(str(data["pattern"]), str(data["criterion"]), layers)
