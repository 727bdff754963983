"""New counts from known ones: a few numbers changed, or each number from either of two parents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autoprune.core.space import SearchSpace


def mutated(
    space: SearchSpace, numbers: Mapping[str, int], rng: np.random.Generator, block_weight: float = 1.0
) -> dict[str, int]:
    """Return numbers of which up to four are changed: a group's channels by a random factor, a block the other way.

    Args:
        space: that the numbers are of.
        numbers: group → channels and block → 1 or 0, as :meth:`SearchSpace.cut_numbers` returns them.
        rng: where chance comes from.
        block_weight: how often a block is changed for each time that a group is, > 0.
    """
    found, names = dict(numbers), space.cut_names
    odds = None
    if block_weight != 1:
        weights = np.array([block_weight if name in space.block_names else 1.0 for name in names])
        odds = weights / weights.sum()
    for name in rng.choice(names, min(len(names), int(rng.integers(1, 5))), replace=False, p=odds):
        if name in space.block_names:
            found[name] = 1 - found[name]
        else:
            wished = float(np.clip(found[name] * math.exp(rng.normal(0, 0.3)), 1, space.full.channels[name]))
            found[name] = space.nearest(name, wished)
    return found


def inherited(space: SearchSpace, rng: np.random.Generator) -> list[str]:
    """Return the groups and blocks that come from the second of two parents, each with an even chance."""
    return [name for name in space.cut_names if rng.random() < 0.5]
