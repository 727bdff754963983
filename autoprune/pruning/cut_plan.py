"""The plan of a cut: which channels stay of every module, and which blocks are dropped.

A plan is plain data, read off the groups before anything is changed. It alone rebuilds a picked network, and it is
what ``surgery.py`` carries out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autoprune.core.channel_groups import Block, PruningGroup, Side
from autoprune.pruning.channel_positions import sizes_of

BLOCK = "block"  # the side of a module that is dropped whole


@dataclass(frozen=True)
class KeptChannels:
    """Which channels of one module stay.

    Attributes:
        sides: side → indices that stay, ascending; a side that is not named stays whole. The side ``block``, with
            no indices, means that the module is dropped.
    """

    sides: Mapping[Side, tuple[int, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, list[int]]:
        """Return plain types; sides that stay whole are left out."""
        return {side: list(indices) for side, indices in self.sides.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> KeptChannels:
        """Return what :meth:`to_json` wrote."""
        return cls({str(side): tuple(int(i) for i in indices) for side, indices in data.items()})


CutPlan = Mapping[str, KeptChannels]
"""Module path, or path of a bare parameter → what stays of it; whatever is not named stays whole."""


def plan_cut(
    network: nn.Module,
    groups: Iterable[PruningGroup],
    removed: Mapping[str, Iterable[int]],
    dropped: Iterable[str] = (),
) -> dict[str, KeptChannels]:
    """Return the plan by which these channels of these groups go, and these blocks.

    Args:
        network: the dense network; only its shapes are read.
        groups: the groups that ``removed`` may name.
        removed: group name → channels to remove.
        dropped: paths of blocks that go whole; the plan names nothing inside them.
    """
    blocks = [Block(name) for name in dropped]
    gone: dict[str, dict[Side, set[int]]] = {}
    for group in groups:
        channels = tuple(removed.get(group.name, ()))
        for member in group.members if channels else ():
            if not any(block.holds(member.module) for block in blocks):
                indices = gone.setdefault(member.module, {}).setdefault(member.side, set())
                indices.update(index for channel in channels for index in member.of(channel))
    cut = {block.name: KeptChannels({BLOCK: ()}) for block in blocks}
    for path, sides in gone.items():
        sizes = sizes_of(network, path)
        cut[path] = KeptChannels(
            {side: tuple(i for i in range(sizes[side]) if i not in lost) for side, lost in sorted(sides.items())}
        )
    return cut


def dropped_blocks(plan: CutPlan) -> list[str]:
    """Return the paths of the blocks that a plan drops."""
    return [path for path, kept in plan.items() if BLOCK in kept.sides]
