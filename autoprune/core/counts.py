"""What stays of a network, in numbers: the one form in which a policy travels between proposal and surgery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MASK_UNITS = 64  # of a layer's weights; a mask's sparsity is a multiple of 1/64


@dataclass(frozen=True)
class ChannelCounts:
    """Channels by group, dropped blocks, and mask units by layer; what is not named stays whole.

    Attributes:
        channels: group → channels that stay, at least 1.
        dropped_blocks: blocks that go whole.
        mask_units: layer → units of 1/64 of its weights that a mask leaves, 1 … 64.
    """

    channels: Mapping[str, int] = field(default_factory=dict)
    dropped_blocks: frozenset[str] = frozenset()
    mask_units: Mapping[str, int] = field(default_factory=dict)

    def with_channels(self, channels: Mapping[str, int]) -> ChannelCounts:
        """Return these counts with some groups at other numbers of channels.

        >>> ChannelCounts({"conv1": 8, "conv2": 4}).with_channels({"conv2": 2}).channels
        {'conv1': 8, 'conv2': 2}
        """
        return replace(self, channels={**self.channels, **channels})

    def with_mask_units(self, mask_units: Mapping[str, int]) -> ChannelCounts:
        """Return these counts with the masks of some layers at other units."""
        return replace(self, mask_units={**self.mask_units, **mask_units})

    def dropping(self, blocks: frozenset[str]) -> ChannelCounts:
        """Return these counts with further blocks dropped."""
        return replace(self, dropped_blocks=self.dropped_blocks | blocks)


def masked_zeros(weights: int, units: int) -> int:
    """Return how many of ``weights`` a mask sets to zero that leaves ``units`` of 64, rounded down.

    >>> masked_zeros(100, 32), masked_zeros(100, 64), masked_zeros(3, 63)
    (50, 0, 0)
    """
    return weights * (MASK_UNITS - units) // MASK_UNITS
