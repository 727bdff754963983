"""Counts as real numbers, before they are brought onto the budget, and the single numbers that may change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from autoprune.core.counts import ChannelCounts
from autoprune.core.space import SearchSpace


@dataclass(frozen=True)
class WishedCounts:
    """Counts as real numbers, before they are rounded to those that exist and fit the budget.

    Attributes:
        channels: group → channels wished for, > 0; what is missing is wished for whole.
        dropped_blocks: blocks that are to go.
        mask_units: layer → units of its mask wished for, > 0; what is missing is wished for whole.
    """

    channels: Mapping[str, float] = field(default_factory=dict)
    dropped_blocks: frozenset[str] = frozenset()
    mask_units: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: ChannelCounts) -> WishedCounts:
        """Return counts as wishes."""
        return cls(counts.channels, counts.dropped_blocks, counts.mask_units)

    def named(self, space: SearchSpace) -> WishedCounts:
        """Return the wishes with everything named."""
        full = space.full
        return replace(
            self,
            channels={**full.channels, **self.channels},
            mask_units={**full.mask_units, **self.mask_units},
        )

    def scaled(self, factor: float, parts: Iterable[Part], space: SearchSpace, multiple: int = 1) -> ChannelCounts:
        """Return the counts that exist nearest to the wishes, all of some parts multiplied by one factor.

        Args:
            factor: 0 for as few as there may be.
            parts: what is multiplied.
            space: what exists.
            multiple: channels of the parts are to be a multiple of it, or whole, where that exists.
        """
        free = {(part.name, part.is_mask) for part in parts}
        channels = {n: c * factor if (n, False) in free else c for n, c in self.channels.items()}
        units = {n: u * factor if (n, True) in free else u for n, u in self.mask_units.items()}
        return ChannelCounts(
            {
                name: space.nearest(name, on_multiple(count, multiple, space, name) if (name, False) in free else count)
                for name, count in channels.items()
            },
            self.dropped_blocks,
            {layer: space.nearest_units(layer, count) for layer, count in units.items()},
        )


def on_multiple(count: float, multiple: int, space: SearchSpace, group: str) -> float:
    """Return the multiple nearest to a count of channels that the group has, or all its channels."""
    if multiple == 1:
        return count
    choices = space.channel_choices[group]
    least = -(-choices[0] // multiple) * multiple
    return min(max(round(count / multiple) * multiple, least), choices[-1])


class Part(NamedTuple):
    """One number that may change: the channels of a group, or the units of a layer's mask."""

    name: str
    is_mask: bool

    @property
    def label(self) -> str:
        """Return what ties are broken by."""
        return f"{self.name}:weights" if self.is_mask else self.name

    def of(self, counts: ChannelCounts) -> int:
        """Return this number of some counts."""
        return counts.mask_units[self.name] if self.is_mask else counts.channels[self.name]

    def wished(self, wishes: WishedCounts) -> float:
        """Return this number of some wishes."""
        return wishes.mask_units[self.name] if self.is_mask else wishes.channels[self.name]

    def choices(self, space: SearchSpace) -> tuple[int, ...]:
        """Return the values that exist, ascending."""
        return space.mask_choices[self.name] if self.is_mask else space.channel_choices[self.name]

    def at(self, counts: ChannelCounts, value: int) -> ChannelCounts:
        """Return the counts with this number at another value."""
        return counts.with_mask_units({self.name: value}) if self.is_mask else counts.with_channels({self.name: value})
