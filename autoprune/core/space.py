"""What can be pruned: groups of coupled channels, blocks, masks, and the space of policies over them.

A :class:`PruningGroup` and a :class:`Block` are found and proved by the workshop; here they are plain data, so that
cost, proposals and reports can be computed without the network. :class:`SearchSpace` translates between policies and
the flat parameters that a sampler proposes, and knows which counts exist.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.errors import ModelError

Side: TypeAlias = str
"""``out`` (produced or normalised), ``in`` (read), ``heads`` of attention, or ``dim0`` … of a bare parameter."""

Kept: TypeAlias = Mapping[str, int]
"""What stays: group → channels, block → 1 or 0, ``LAYER:weights`` → units of 1/64 of its weights."""

MASK_UNITS = 64  # of a layer's weights; a mask's sparsity is a multiple of 1/64
_HALF = MASK_UNITS // 2


@dataclass(frozen=True)
class Member:
    """Say where the channels of a group live in one module.

    Attributes:
        module: module path, or the path of a parameter that belongs to no layer.
        side: ``"out"`` for the channels a module produces (or normalises), ``"in"`` for those it reads, ``"heads"``
            for the heads of attention, ``"dim0"`` … for a dimension of a bare parameter.
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
        return tuple(member for member in self.members if member.side != "in")


@dataclass(frozen=True)
class Block:
    """Name a module that can be dropped whole, because it only adds to what passes through it.

    Attributes:
        name: module path.
        groups: groups that live inside it alone, and mean nothing once it is dropped.
    """

    name: str
    groups: tuple[str, ...] = ()

    def holds(self, path: str) -> bool:
        """Return whether a module or tensor path lies inside the block."""
        return path == self.name or path.startswith(f"{self.name}.")


@dataclass(frozen=True)
class MaskSpace:
    """Say which masks may be proposed.

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


@dataclass(frozen=True)
class FrozenGroup:
    """Name a group that cannot be cut, with the reason in words a user understands."""

    name: str
    num_channels: int
    reason: str


@dataclass(frozen=True)
class Shrink:
    """Say what one channel of a group takes away from one tensor of the network.

    Attributes:
        tensor: path of a parameter or buffer, or ``MODULE:products`` for the matrix products of attention.
        dim: the dimension that gets shorter.
        per_channel: by how much, for each channel removed.
    """

    tensor: str
    dim: int
    per_channel: int


@dataclass(frozen=True)
class Dimension:
    """Describe one parameter of the search space.

    Attributes:
        name: parameter name: ``"<group>.sparsity"``, ``"<group>.importance"``, ``"<block>.dropped"``,
            ``"<layer>.mask_sparsity"`` or ``"mask.criterion"``.
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

    @cached_property
    def by_name(self) -> dict[str, PruningGroup]:
        """Return group name → group."""
        return {group.name: group for group in self.groups}

    @cached_property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """Return what can be chosen → the counts that may stay, ascending; the last is all of it."""
        masks = {mask_key(layer): self.mask.units for layer in self.mask.layers} if self.mask else {}
        return {
            **{group.name: self._choices(group.num_channels) for group in self.groups},
            **{block.name: (0, 1) for block in self.blocks},
            **masks,
        }

    @cached_property
    def full(self) -> dict[str, int]:
        """Return the counts of the dense network."""
        return {name: counts[-1] for name, counts in self.choices.items()}

    @cached_property
    def cut_names(self) -> tuple[str, ...]:
        """Return what can be cut or dropped, masks aside: groups, then blocks, in the order of ``choices``."""
        return (*self.by_name, *(block.name for block in self.blocks))

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
        """Return what means nothing once its block is dropped → that block."""
        inner = {group: block.name for block in self.blocks for group in block.groups}
        layers = self.mask.layers if self.mask else ()
        masked = {mask_key(layer): block.name for layer in layers for block in self.blocks if block.holds(layer)}
        return {**inner, **masked}

    def _choices(self, channels: int) -> tuple[int, ...]:
        least = max(1, math.ceil(round(channels * (1 - self.max_sparsity), 9)))
        counts = range(math.ceil(least / self.round_to) * self.round_to, channels, self.round_to)
        return (*counts, channels)

    @cached_property
    def dimensions(self) -> tuple[Dimension, ...]:
        """Return the flat parameters: one or two per group that has a choice of counts, one per block and masked layer.

        A group with a single criterion has no importance parameter, one with a single count none at all.
        """
        found = []
        for group in self.groups:
            counts, criteria = self.choices[group.name], self.importances[group.name]
            if len(counts) > 1:
                found.append(Dimension(f"{group.name}.sparsity", high=1 - counts[0] / group.num_channels))
                if len(criteria) > 1:
                    found.append(Dimension(f"{group.name}.importance", choices=criteria))
        found += [Dimension(f"{block.name}.dropped", choices=("no", "yes")) for block in self.blocks]
        if self.mask and len(self.mask.units) > 1:
            high = 1 - self.mask.units[0] / MASK_UNITS
            found += [Dimension(f"{layer}.mask_sparsity", high=high) for layer in self.mask.layers]
            if len(self.mask.criteria) > 1 and self.mask.layers:
                found.append(Dimension("mask.criterion", choices=self.mask.criteria))
        return tuple(found)

    def decode(self, params: Mapping[str, float | str]) -> PruningPolicy:
        """Return the policy that flat parameters stand for; the inverse of :meth:`encode`."""
        groups = {}
        for group in self.groups:
            sparsity = params.get(f"{group.name}.sparsity", 0.0)
            importance = params.get(f"{group.name}.importance", self.importances[group.name][0])
            groups[group.name] = GroupPolicy(float(sparsity), str(importance))
        dropped = tuple(block.name for block in self.blocks if params.get(f"{block.name}.dropped") == "yes")
        mask = None
        if self.mask:
            layers = {layer: float(params.get(f"{layer}.mask_sparsity", 0.0)) for layer in self.mask.layers}
            criterion = str(params.get("mask.criterion", self.mask.criteria[0]))
            mask = MaskPolicy(self.mask.pattern, criterion, layers)
        return PruningPolicy(groups, self.round_to, dropped, mask)

    def encode(self, policy: PruningPolicy) -> dict[str, float | str]:
        """Return the flat parameters of a policy; the inverse of :meth:`decode` on canonical policies."""
        values: dict[str, float | str] = {}
        canonical = self.canonical(policy)
        for name, group in canonical.groups.items():
            values[f"{name}.sparsity"] = group.sparsity
            values[f"{name}.importance"] = group.importance
        for block in self.blocks:
            values[f"{block.name}.dropped"] = "yes" if block.name in canonical.dropped_blocks else "no"
        if canonical.mask:
            values |= {f"{layer}.mask_sparsity": sparsity for layer, sparsity in canonical.mask.layers.items()}
            values["mask.criterion"] = canonical.mask.criterion
        return {dimension.name: values[dimension.name] for dimension in self.dimensions}

    def kept(self, policy: PruningPolicy) -> dict[str, int]:
        """Return the nearest counts that exist (the larger of two equally near); what a dropped block holds is whole.

        Raises:
            ModelError: if the policy names something that this network does not have.
        """
        self._check_known(policy)
        kept = dict(self.full)
        for name, group in policy.groups.items():
            kept[name] = self.nearest(name, self.by_name[name].num_channels * (1 - group.sparsity))
        for block in policy.dropped_blocks:
            kept[block] = 0
        for layer, sparsity in policy.mask.layers.items() if policy.mask else ():
            kept[mask_key(layer)] = self.nearest(mask_key(layer), MASK_UNITS * (1 - sparsity))
        return self.settled(kept)

    def settled(self, kept: Kept) -> dict[str, int]:
        """Return the counts with everything inside dropped blocks whole, so that equal networks have equal counts."""
        return {
            name: self.full[name] if name in self._inside and not kept[self._inside[name]] else count
            for name, count in kept.items()
        }

    def _check_known(self, policy: PruningPolicy) -> None:
        masked = policy.mask.layers if policy.mask else {}
        unknown = {
            "groups this network cannot cut": sorted(set(policy.groups) - set(self.by_name)),
            "blocks this network cannot drop": sorted(set(policy.dropped_blocks) - self.block_names),
            "layers whose weights this study does not mask": sorted(
                layer for layer in masked if mask_key(layer) not in self.full
            ),
        }
        for what, names in unknown.items():
            if names:
                raise ModelError(
                    f"the policy names {what}: {', '.join(names[:5])}; `autoprune inspect` lists those it has"
                )
        if policy.mask and self.mask and policy.mask.pattern != self.mask.pattern:
            raise ModelError(f"the policy masks by {policy.mask.pattern!r} and this study by {self.mask.pattern!r}")

    def nearest(self, name: str, count: float) -> int:
        """Return the existing count nearest to a real number of channels, or of units of a mask; of two, the larger."""
        choices = self.choices[name]
        place = bisect_left(choices, count)
        if place in (0, len(choices)):
            return choices[0] if place == 0 else choices[-1]
        below, above = choices[place - 1], choices[place]
        return above if above - count <= count - below else below

    def policy(self, kept: Kept, importances: Mapping[str, str], criterion: str = "") -> PruningPolicy:
        """Return the canonical policy that keeps exactly these counts.

        Args:
            kept: what stays; names that are missing stay whole.
            importances: group name → criterion.
            criterion: of the mask; empty for the first one.
        """
        kept = self.settled({**self.full, **kept})
        inactive = {name for name, block in self._inside.items() if not kept[block]}
        groups = {
            group.name: GroupPolicy(
                1 - kept[group.name] / group.num_channels,
                self.importances[group.name][0] if group.name in inactive else importances[group.name],
            )
            for group in self.groups
        }
        mask = None
        if self.mask:
            layers = {layer: 1 - kept[mask_key(layer)] / MASK_UNITS for layer in self.mask.layers}
            mask = MaskPolicy(self.mask.pattern, criterion or self.mask.criteria[0], layers)
        dropped = tuple(block.name for block in self.blocks if not kept[block.name])
        return PruningPolicy(groups, self.round_to, dropped, mask)

    def canonical(self, policy: PruningPolicy) -> PruningPolicy:
        """Return the policy that says exactly what will be built: one sparsity per existing count.

        Raises:
            ModelError: if the policy names something that this network does not have.
        """
        importances = {
            group.name: policy.groups[group.name].importance
            if group.name in policy.groups
            else self.importances[group.name][0]
            for group in self.groups
        }
        return self.policy(self.kept(policy), importances, policy.mask.criterion if policy.mask else "")


def mask_key(layer: str) -> str:
    """Return the key of a layer's mask in :data:`Kept`.

    >>> mask_key("layer1.0.conv1")
    'layer1.0.conv1:weights'
    """
    return f"{layer}:weights"


def masked_zeros(weights: int, units: int) -> int:
    """Return how many of ``weights`` a mask sets to zero that keeps ``units`` of 64, rounded down.

    >>> masked_zeros(100, 32), masked_zeros(100, 64), masked_zeros(3, 63)
    (50, 0, 0)
    """
    return weights * (MASK_UNITS - units) // MASK_UNITS
