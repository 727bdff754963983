"""Choose counts so that the rises of the loss add up to as little as possible within the budget.

    minimise Σ_g penalty_g(kept_g)   so that   cost(kept) / limit ≤ 1

The penalties add up; the cost does not: a layer costs its outputs times its inputs. So a price on the cost is raised
step by step; at each price every group, given what the others keep, takes the count that is best for it, which is a
Lagrangian relaxation followed along its multiplier. What is left of the budget is then spent, and pairs of groups
trade channels for as long as that helps. The costs are exact throughout, thousands of policies a millisecond.

Source: Everett 1963, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of Resources".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.counts import ChannelCounts
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.search.proposals.budget_projection import Projector

Penalties: TypeAlias = Mapping[str, Floats]
"""Group or block → the penalty of each of its counts, in the order of ``SearchSpace.cut_choices``; the last is 0."""

_LEVELS = 17  # counts of one group that are looked at along the price; trading then goes by single steps
_CHEAPEST, _DEAREST = 1e-9, 1e9
_STEP = 2.0  # factor from one price to the next
_REFINED = 5  # bisections of the last step


class CutChoices:
    """The numbers that may stay of each group and block, as arrays; one row each, filled up on the right.

    Args:
        space: what may be cut.

    Attributes:
        names: groups and blocks, in the order of the space.
        sizes: how many numbers there are of each, shape ``(num_names,)``.
        numbers: they themselves, ascending, shape ``(num_names, most)``.
        grid: positions among each one's numbers, from the fewest to all, shape ``(num_names, levels)``.
        even_grid: the same, of numbers near sixteenths of the whole.
        insides: each block that holds groups: its place, and the places of these, which mean nothing once it is
            dropped.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.names = list(space.cut_names)
        choices = list(space.cut_choices.values())
        self.sizes = np.array([len(each) for each in choices], dtype=np.int64)
        self.numbers = np.array(
            [[*each, *[0] * (int(self.sizes.max()) - len(each))] for each in choices], dtype=np.int64
        )
        self.grid = np.stack([np.linspace(0, size - 1, _LEVELS).round().astype(np.int64) for size in self.sizes])
        self.even_grid = np.stack([_sixteenths(np.array(each)) for each in choices])
        place = {name: place for place, name in enumerate(self.names)}
        held = [
            (place[block.name], [place[group] for group in block.groups if group in place]) for block in space.blocks
        ]
        self.insides = [(block, np.array(groups, dtype=np.int64)) for block, groups in held if groups]
        self._places = np.arange(len(self.names))
        self._may_step = np.ones(len(self.names), dtype=np.bool_)
        self._may_step[[block for block, _ in self.insides]] = False

    def tables(self, penalties: Penalties) -> Floats:
        """Return the penalty of each number, shape ``(num_names, most)``; names that are missing hardly have any."""
        found = np.zeros(self.numbers.shape)
        for row, (name, size) in enumerate(zip(self.names, self.sizes.tolist(), strict=True)):
            found[row, :size] = penalties[name] if name in penalties else np.linspace(1e-9, 0.0, size)  # a tie-break
        return found

    def counts(self, rows: Ints) -> Ints:
        """Return the numbers at many positions, shape ``(n, num_names)`` like these."""
        return np.asarray(self.numbers[self._places, rows])

    def at(self, table: Floats, kept: Ints) -> Floats:
        """Return each one's value at its position, shape ``(num_names,)``."""
        return np.asarray(table[self._places, kept])

    def penalty_of(self, places: Ints, table: Floats, kept: Ints) -> float:
        """Return the sum of the penalties of a few groups at their positions."""
        return float(sum(table[places, kept[places]].tolist()))

    def steps(self, kept: Ints, table: Floats, direction: int) -> Steps:
        """Return every step of a sixteenth up or down that exists; of what a dropped block holds there is none.

        A block that holds groups can be put back, with these as they were when it was dropped; it is dropped along the
        price alone.
        """
        to = np.clip(kept + direction * np.maximum(1, self.sizes // 16), 0, self.sizes - 1)
        exists = (to != kept) & self._may_step
        changes = table[self._places, to] - table[self._places, kept]
        for block, groups in self.insides:
            if not kept[block]:
                exists[groups] = False
                exists[block] = direction > 0
                changes[block] += self.penalty_of(groups, table, kept)
        places = np.flatnonzero(exists)
        return Steps(places, to[places], changes[places])


def _sixteenths(choices: Ints) -> Ints:
    """Return the positions of the choices nearest to sixteenths of the largest, from the smallest choice to it.

    Of widths of 32 and 64 these are multiples of 2 and 4, which can take less time than the odd ones between them.
    """
    wished = np.maximum(np.arange(_LEVELS) * choices[-1] / (_LEVELS - 1), choices[0])
    return np.asarray(np.abs(choices[None] - wished[:, None]).argmin(axis=1), dtype=np.int64)


class Steps(NamedTuple):
    """Numbers that may change, each alone: its place, its new position, and by how much the penalty changes."""

    places: Ints
    to: Ints
    changes: Floats


class Knapsack:
    """A solver for penalties over one space and budget.

    Args:
        projector: the space, the budget, and exact costs.
        trades: most rounds of trading between pairs.
        choices: of the space, if they are at hand.
    """

    def __init__(self, projector: Projector, trades: int = 60, choices: CutChoices | None = None) -> None:
        self.projector, self.trades = projector, trades
        self._choices = choices or CutChoices(projector.space)
        self._grid = self._choices.even_grid if projector.predicted else self._choices.grid
        self._levels = np.take_along_axis(self._choices.numbers, self._grid, axis=1)

    def solve(self, penalties: Penalties) -> ChannelCounts:
        """Return the counts that stay, within the budget wherever the space allows it.

        Args:
            penalties: names that are missing hardly hurt when they are cut, and go first.
        """
        choices, space = self._choices, self.projector.space
        table = choices.tables(penalties)
        kept = self._traded(self._priced(table), table)
        numbers = dict(zip(choices.names, choices.counts(kept[None])[0].tolist(), strict=True))
        return space.normalized(space.of_cut_numbers(numbers))

    def penalty(self, counts: ChannelCounts, penalties: Penalties) -> float:
        """Return Σ penalty of some counts; what a dropped block holds costs nothing."""
        space = self.projector.space
        numbers = space.cut_numbers(space.normalized(counts))
        return float(
            sum(
                penalties[name][space.cut_choices[name].index(number)]
                for name, number in numbers.items()
                if name in penalties
            )
        )

    def _usages(self, rows: Ints) -> Floats:
        """Return cost / limit of many states, rows of positions among the choices."""
        return self.projector.usages(self._choices.names, self._choices.counts(rows))

    def _usage(self, kept: Ints) -> float:
        return float(self._usages(kept[None])[0])

    # along the price

    def _priced(self, table: Floats) -> Ints:
        """Return the state at the lowest price that meets the budget, coming from the whole network."""
        kept = self._choices.sizes - 1
        if self._usage(kept) <= 1:
            return kept
        levels = np.take_along_axis(table, self._grid, axis=1)
        price, former = self._first_price(kept, table, levels), kept
        while self._usage(kept) > 1:
            if not price < _DEAREST:
                return np.zeros_like(kept)
            former, price = kept, price * _STEP
            kept = self._best_at(price, former, table, levels)
        low, high = price / _STEP, price
        for _ in range(_REFINED):
            middle = (low * high) ** 0.5
            tried = self._best_at(middle, former, table, levels)
            if self._usage(tried) <= 1:
                high, kept = middle, tried
            else:
                low, former = middle, tried
        return kept

    def _first_price(self, kept: Ints, table: Floats, levels: Floats) -> float:
        """Return a price below which nothing is worth cutting."""
        saved = self._usage(kept) - self._alternatives(kept)
        worse = levels - self._choices.at(table, kept)[:, None]
        ratios = worse[saved > 0] / saved[saved > 0]
        return max(float(ratios.min(initial=1.0)), _CHEAPEST)

    def _best_at(self, price: float, kept: Ints, table: Floats, levels: Floats) -> Ints:
        """Return every group's best count at a price, given what the others keep now; none rises."""
        grid = self._grid
        worth = levels + price * self._alternatives(kept)
        for block, groups in self._choices.insides:  # what a dropped block holds no longer hurts
            worth[block, grid[block] == 0] -= self._choices.penalty_of(groups, table, kept)
        worth[grid > kept[:, None]] = np.inf
        best = _LEVELS - 1 - np.argmin(worth[:, ::-1], axis=1)  # of equals the largest
        return np.asarray(np.minimum(kept, grid[np.arange(len(kept)), best]))

    def _alternatives(self, kept: Ints) -> Floats:
        """Return cost / limit when one group alone is at each level of its grid, shape ``(num_names, levels)``."""
        choices = self._choices
        counts = np.repeat(choices.counts(kept[None]), self._grid.size, axis=0)
        counts[np.arange(len(counts)), np.repeat(np.arange(len(kept)), _LEVELS)] = self._levels.ravel()
        return self.projector.usages(choices.names, counts).reshape(self._grid.shape)

    # trading

    def _traded(self, kept: Ints, table: Floats) -> Ints:
        """Spend what is left of the budget, and let pairs of groups trade while the sum of penalties falls."""
        kept = self._spent(kept, table)
        for _ in range(self.trades):
            ups, downs = self._choices.steps(kept, table, 1), self._choices.steps(kept, table, -1)
            sums = ups.changes[:, None] + downs.changes
            up, down = np.nonzero((ups.places[:, None] != downs.places) & (sums < -1e-12))
            best = np.argsort(sums[up, down], kind="stable")
            up, down = up[best], down[best]
            found = self._first_fitting(kept, [(ups.places[up], ups.to[up]), (downs.places[down], downs.to[down])])
            if found is None:
                break
            kept = self._spent(found, table)
        return kept

    def _spent(self, kept: Ints, table: Floats) -> Ints:
        """Raise counts one step at a time, that which takes most penalty away first, while the budget allows it."""
        while True:
            ups = self._choices.steps(kept, table, 1)
            best = np.argsort(ups.changes, kind="stable")
            found = self._first_fitting(kept, [(ups.places[best], ups.to[best])])
            if found is None:
                return kept
            kept = found

    def _first_fitting(self, kept: Ints, changes: Sequence[tuple[Ints, Ints]]) -> Ints | None:
        """Return the first changed state that fits the budget; ``None`` if none does.

        Args:
            kept: the state.
            changes: each (places, new positions), one of each for every state that is looked at.
        """
        rows = np.repeat(kept[None], len(changes[0][0]), axis=0)
        for places, to in changes:
            rows[np.arange(len(rows)), places] = to
        fits = self._usages(rows) <= 1 if len(rows) else np.zeros(0, dtype=np.bool_)
        return np.asarray(rows[np.argmax(fits)]) if fits.any() else None


def rises_of(sensitivity: Sensitivity, space: SearchSpace, name: str) -> Floats:
    """Return the rise of each count of a group or block, in the order of ``space.cut_choices``."""
    choices = space.cut_choices[name]
    curve = sensitivity.curves.get(name)
    if curve is not None and curve.full == choices[-1]:
        return curve.at(choices)
    return np.asarray((1 - np.array(choices) / choices[-1]) ** 2)
