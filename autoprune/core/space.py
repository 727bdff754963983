"""The space of policies over a network: which counts exist, and the way between counts and policies."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from autoprune.core.channel_groups import Block, PruningGroup
from autoprune.core.counts import MASK_UNITS, ChannelCounts
from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.errors import ModelError

_HALF = MASK_UNITS // 2


@dataclass(frozen=True)
class MaskSpace:
    """The masks that may be proposed.

    Attributes:
        pattern: ``"weight"`` or ``"2:4"``.
        criteria: how weights may be ranked.
        layers: module paths whose weights can be masked, in network order.
        max_sparsity: largest fraction of a layer's weights that may be zero; 2:4 is always a half.
    """

    pattern: str
    criteria: tuple[str, ...]
    layers: tuple[str, ...]
    max_sparsity: float = 0.9

    @cached_property
    def units(self) -> tuple[int, ...]:
        """Return the units of 1/64 of a layer's weights that may stay, ascending; the last is all of them."""
        if self.pattern == "2:4":
            return (_HALF, MASK_UNITS)
        least = max(1, math.ceil(round(MASK_UNITS * (1 - self.max_sparsity), 9)))
        return tuple(range(least, MASK_UNITS + 1))


LEAST_MAX_SPARSITY = 0.9  # of the space of one policy


@dataclass(frozen=True)
class SearchSpace:
    """Every policy that the search may propose.

    Attributes:
        groups: what can be cut, in network order.
        importances: group name → criteria that can score it.
        max_sparsity: largest fraction of a group that may be removed, in (0, 1).
        round_to: kept channels are a multiple of this, where the group has that many.
        blocks: what can be dropped whole, in network order.
        mask: which masks may be put on what remains; ``None`` for none.
    """

    groups: tuple[PruningGroup, ...]
    importances: Mapping[str, tuple[str, ...]]
    max_sparsity: float = 0.9
    round_to: int = 1
    blocks: tuple[Block, ...] = ()
    mask: MaskSpace | None = None

    def __post_init__(self) -> None:
        if not self.groups and not self.blocks and not (self.mask and self.mask.layers):
            raise ModelError(
                "nothing in this network can be pruned: every group is frozen or excluded, so there is nothing to "
                "search; `autoprune inspect` shows every group with the reason"
            )

    @classmethod
    def of_policy(
        cls, policy: PruningPolicy, groups: Mapping[str, PruningGroup], blocks: Iterable[Block]
    ) -> SearchSpace:
        """Return the space in which a policy is one of the possible ones.

        Args:
            policy: any.
            groups: name → group of a network, in network order.
            blocks: of the network.
        """
        named = {name: group for name, group in groups.items() if name in policy.groups}
        highest = max((group.sparsity for group in policy.groups.values()), default=0.0)
        mask = policy.mask
        return cls(
            tuple(named.values()),
            {name: (policy.groups[name].importance,) for name in named},
            max(LEAST_MAX_SPARSITY, highest),
            policy.round_to,
            tuple(block for block in blocks if block.name in policy.dropped_blocks),
            MaskSpace(mask.pattern, (mask.criterion,), tuple(mask.layers)) if mask else None,
        )

    @cached_property
    def by_name(self) -> dict[str, PruningGroup]:
        """Return group name → group."""
        return {group.name: group for group in self.groups}

    @cached_property
    def channel_choices(self) -> dict[str, tuple[int, ...]]:
        """Return group → the numbers of channels that may stay, ascending; the last is all of them."""
        return {group.name: self._choices(group.num_channels) for group in self.groups}

    @cached_property
    def mask_choices(self) -> dict[str, tuple[int, ...]]:
        """Return layer → the units of 1/64 of its weights that a mask may leave, ascending; the last is all."""
        return dict.fromkeys(self.mask.layers, self.mask.units) if self.mask else {}

    @cached_property
    def full(self) -> ChannelCounts:
        """Return the counts of the dense network, everything named."""
        return ChannelCounts(
            {name: choices[-1] for name, choices in self.channel_choices.items()},
            mask_units={layer: choices[-1] for layer, choices in self.mask_choices.items()},
        )

    @cached_property
    def smallest(self) -> ChannelCounts:
        """Return the fewest of everything: no network of this space costs less."""
        return ChannelCounts(
            {name: choices[0] for name, choices in self.channel_choices.items()},
            self.block_names,
            {layer: choices[0] for layer, choices in self.mask_choices.items()},
        )

    @cached_property
    def cut_choices(self) -> dict[str, tuple[int, ...]]:
        """Return what can be cut or dropped, masks aside → its numbers, ascending: groups, then blocks (0 and 1)."""
        return {**self.channel_choices, **{block.name: (0, 1) for block in self.blocks}}

    @property
    def cut_names(self) -> tuple[str, ...]:
        """Return what can be cut or dropped, masks aside: groups, then blocks."""
        return tuple(self.cut_choices)

    def cut_numbers(self, counts: ChannelCounts) -> dict[str, int]:
        """Return group → channels and block → 1 if it stays, else 0, in the order of ``cut_names``."""
        blocks = {block.name: int(block.name not in counts.dropped_blocks) for block in self.blocks}
        return {**{name: counts.channels.get(name, full) for name, full in self.full.channels.items()}, **blocks}

    def of_cut_numbers(self, numbers: Mapping[str, int]) -> ChannelCounts:
        """Return the counts that :meth:`cut_numbers` returns ``numbers`` for; what is missing stays whole."""
        dropped = frozenset(name for name in self.block_names if not numbers.get(name, 1))
        return ChannelCounts({name: count for name, count in numbers.items() if name in self.by_name}, dropped)

    @cached_property
    def first_importances(self) -> dict[str, str]:
        """Return the first criterion of each group: the one the user listed first."""
        return {name: self.importances[name][0] for name in self.by_name}

    @cached_property
    def block_names(self) -> frozenset[str]:
        """Return the names of the blocks."""
        return frozenset(block.name for block in self.blocks)

    @cached_property
    def _inside(self) -> dict[str, str]:
        """Return group → the block that it means nothing without."""
        return {group: block.name for block in self.blocks for group in block.groups}

    @cached_property
    def _masked_inside(self) -> dict[str, str]:
        """Return masked layer → the block that holds it."""
        return {layer: block.name for layer in self.mask_choices for block in self.blocks if block.holds(layer)}

    def _choices(self, channels: int) -> tuple[int, ...]:
        least = max(1, math.ceil(round(channels * (1 - self.max_sparsity), 9)))
        counts = range(math.ceil(least / self.round_to) * self.round_to, channels, self.round_to)
        return (*counts, channels)

    def counts(self, policy: PruningPolicy) -> ChannelCounts:
        """Return the nearest counts that exist (the larger of two equally near); what a dropped block holds is whole.

        Raises:
            ModelError: if the policy names something that this network does not have.
        """
        self._check_known(policy)
        channels = {
            name: self.nearest(name, self.by_name[name].num_channels * (1 - group.sparsity))
            for name, group in policy.groups.items()
        }
        masked = policy.mask.layers if policy.mask else {}
        units = {layer: self.nearest_units(layer, MASK_UNITS * (1 - sparsity)) for layer, sparsity in masked.items()}
        return self.normalized(ChannelCounts(channels, frozenset(policy.dropped_blocks), units))

    def normalized(self, counts: ChannelCounts) -> ChannelCounts:
        """Return the counts with everything named, and whole inside dropped blocks: equal networks are equal counts."""
        full, dropped = self.full, counts.dropped_blocks
        return ChannelCounts(
            {
                name: count if self._inside.get(name) in dropped else counts.channels.get(name, count)
                for name, count in full.channels.items()
            },
            dropped,
            {
                layer: count if self._masked_inside.get(layer) in dropped else counts.mask_units.get(layer, count)
                for layer, count in full.mask_units.items()
            },
        )

    def _check_known(self, policy: PruningPolicy) -> None:
        masked = policy.mask.layers if policy.mask else {}
        unknown = {
            "groups this network cannot cut": sorted(set(policy.groups) - set(self.by_name)),
            "blocks this network cannot drop": sorted(set(policy.dropped_blocks) - self.block_names),
            "layers whose weights this study does not mask": sorted(
                layer for layer in masked if layer not in self.mask_choices
            ),
        }
        for what, names in unknown.items():
            if names:
                raise ModelError(
                    f"the policy names {what}: {', '.join(names[:5])}; `autoprune inspect` lists those it has"
                )
        if policy.mask and self.mask and policy.mask.pattern != self.mask.pattern:
            raise ModelError(f"the policy masks by {policy.mask.pattern!r} and this study by {self.mask.pattern!r}")

    def nearest(self, group: str, channels: float) -> int:
        """Return the number of channels that exists nearest to a real one; of two equally near, the larger."""
        return _nearest(self.channel_choices[group], channels)

    def scaled(self, share: float) -> dict[str, int]:
        """Return group → the number nearest to a share of its channels, in (0, 1]: all widths scaled alike."""
        return {name: self.nearest(name, share * group.num_channels) for name, group in self.by_name.items()}

    def nearest_units(self, layer: str, units: float) -> int:
        """Return the units of a layer's mask that exist nearest to a real number; of two equally near, the larger."""
        return _nearest(self.mask_choices[layer], units)

    def policy(
        self, counts: ChannelCounts, importances: Mapping[str, str] | None = None, criterion: str = ""
    ) -> PruningPolicy:
        """Return the canonical policy that keeps exactly these counts.

        Args:
            counts: what stays; what is not named stays whole.
            importances: group → criterion; what is missing, or everything for ``None``, has the first one.
            criterion: of the mask; empty for the first one.
        """
        counts = self.normalized(counts)
        criteria = self.effective_importances(counts, importances or {})
        groups = {
            group.name: GroupPolicy(1 - counts.channels[group.name] / group.num_channels, criteria[group.name])
            for group in self.groups
        }
        mask = None
        if self.mask:
            layers = {layer: 1 - units / MASK_UNITS for layer, units in counts.mask_units.items()}
            mask = MaskPolicy(self.mask.pattern, criterion or self.mask.criteria[0], layers)
        return PruningPolicy(groups, self.round_to, tuple(counts.dropped_blocks), mask)

    def effective_importances(self, counts: ChannelCounts, importances: Mapping[str, str]) -> dict[str, str]:
        """Return group → criterion, the first one where a criterion has nothing to choose: inside dropped blocks.

        Args:
            counts: what stays.
            importances: group → criterion; what is missing has the first one.
        """
        return {
            name: first if self._inside.get(name) in counts.dropped_blocks else importances.get(name, first)
            for name, first in self.first_importances.items()
        }

    def canonical(self, policy: PruningPolicy) -> PruningPolicy:
        """Return the policy that says exactly what will be built: one sparsity per existing count.

        Raises:
            ModelError: if the policy names something that this network does not have.
        """
        importances = {name: group.importance for name, group in policy.groups.items()}
        return self.policy(self.counts(policy), importances, policy.mask.criterion if policy.mask else "")


def _nearest(choices: tuple[int, ...], count: float) -> int:
    place = bisect_left(choices, count)
    if place in (0, len(choices)):
        return choices[0] if place == 0 else choices[-1]
    below, above = choices[place - 1], choices[place]
    return above if above - count <= count - below else below
