"""The knapsack: within the budget, no worse than any simple policy, and as good as trying everything."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from study_fakes import chain_cost, full_cost, measured_many, space_of

from autoprune.core.budget import Budget, Limit
from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.sensitivity import Curve, Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.knapsack import CutChoices, Knapsack, rises_of
from autoprune.search.proposals.wished_counts import WishedCounts

Penalties = dict[str, NDArray[np.float64]]


def projector_of(space: SearchSpace, share: float) -> Projector:
    cost = chain_cost(space)
    return Projector(space, cost, Budget({"mflops": Limit(share * full_cost(space, cost)["mflops"])}))


def random_penalties(space: SearchSpace, seed: int, power: float = 2.0) -> Penalties:
    """Return penalties that rise with the sparsity, some groups a hundred times as fast as others."""
    rng = np.random.default_rng(seed)
    return {
        name: float(10 ** rng.uniform(-2, 0)) * (1 - np.array(choices) / choices[-1]) ** power
        for name, choices in space.cut_choices.items()
    }


def best_of_all(projector: Projector, penalties: Penalties) -> float:
    """Return the least sum of penalties within the budget, by trying every policy."""
    names = list(projector.space.cut_choices)
    kept = np.array(list(product(*projector.space.cut_choices.values())))
    fits = projector.usages(names, kept) <= 1
    tables = [dict(zip(projector.space.cut_choices[name], penalties[name], strict=True)) for name in names]
    return min(sum(table[k] for table, k in zip(tables, row, strict=True)) for row in kept[fits].tolist())


@pytest.mark.parametrize("seed", range(8))
def test_it_is_nearly_as_good_as_trying_everything(seed: int) -> None:
    space = space_of((6, 8, 9, 8), max_sparsity=0.8)
    projector, penalties = projector_of(space, 0.45), random_penalties(space, seed)
    knapsack = Knapsack(projector)
    kept = knapsack.solve(penalties)
    assert projector.usage(kept) <= 1
    assert knapsack.penalty(kept, penalties) <= 1.15 * best_of_all(projector, penalties) + 1e-9


@settings(max_examples=40, deadline=None, derandomize=True)  # docs' log has a space of two groups where it is worse
@given(
    widths=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    share=st.floats(0.15, 1.1),
    seed=st.integers(0, 99),
    round_to=st.sampled_from([1, 4]),
)
def test_it_fits_wherever_anything_does_and_beats_the_uniform_policy(
    widths: list[int], share: float, seed: int, round_to: int
) -> None:
    space = space_of(widths, round_to=round_to)
    projector, penalties = projector_of(space, share), random_penalties(space, seed)
    knapsack = Knapsack(projector)
    kept = knapsack.solve(penalties)
    assert all(count in space.channel_choices[name] for name, count in kept.channels.items())
    if projector.usage(space.smallest) > 1:
        return
    assert projector.usage(kept) <= 1
    uniform = projector.fit(WishedCounts({name: count / 2 for name, count in space.full.channels.items()}))
    # a coarse round_to or a handful of groups leaves few policies to trade among
    assert knapsack.penalty(kept, penalties) <= knapsack.penalty(uniform, penalties) * 1.1 + 0.02


def test_what_hurts_least_goes_first() -> None:
    space = space_of((16, 16, 16))
    penalties = {"g0": 1.0, "g1": 0.001, "g2": 1.0}
    projector = projector_of(space, 0.6)
    squares = {name: scale * (1 - np.array(space.cut_choices[name]) / 16) ** 2 for name, scale in penalties.items()}
    kept = Knapsack(projector).solve(squares)
    assert kept.channels["g1"] < min(kept.channels["g0"], kept.channels["g2"])


def test_a_needless_budget_cuts_nothing() -> None:
    space = space_of((8, 8))
    assert Knapsack(projector_of(space, 1.0)).solve(random_penalties(space, 0)) == space.full


def test_an_impossible_budget_gives_the_smallest_network() -> None:
    space = space_of((8, 8), max_sparsity=0.5)
    assert Knapsack(projector_of(space, 0.01)).solve(random_penalties(space, 0)) == space.smallest


class BlockCost:
    """Cost each group its channels, the second one only while its block is there."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        inner = 0 if "b" in counts.dropped_blocks else counts.channels["g1"]
        return Measurement({"mflops": float(counts.channels["g0"] + inner)})

    def measure_many(self, names: Any, counts: Any) -> dict[str, Any]:
        return measured_many(self.measure, names, counts)


@pytest.mark.parametrize(("rise", "is_dropped"), [(0.01, True), (9.0, False)])
def test_a_block_goes_if_that_hurts_less_than_thinning(rise: float, is_dropped: bool) -> None:
    space = replace(space_of((16, 16)), blocks=(Block("b", ("g1",)),))
    projector = Projector(space, BlockCost(), Budget({"mflops": Limit(17)}))
    thinning = (1 - np.array(space.cut_choices["g0"]) / 16) ** 2
    kept = Knapsack(projector).solve({"g0": thinning, "g1": thinning, "b": np.array([rise, 0.0])})
    assert ("b" in kept.dropped_blocks) is is_dropped
    if is_dropped:
        assert kept.channels["g1"] == 16, "what a dropped block holds is whole: equal networks, equal counts"
        assert kept.channels["g0"] == 16


class WeighedBlocks:
    """Cost each block its own weight."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    def measure(self, counts: ChannelCounts) -> Measurement:
        stays = self.weights.keys() - counts.dropped_blocks
        return Measurement({"mflops": sum(self.weights[name] for name in sorted(stays))})

    def measure_many(self, names: Any, counts: Any) -> dict[str, Any]:
        return measured_many(self.measure, names, counts)


@pytest.mark.parametrize("seed", range(6))
def test_blocks_that_hold_no_group_are_traded_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = SearchSpace((), {}, blocks=tuple(Block(f"b{place}") for place in range(7)))
    weights = {name: float(rng.uniform(1, 5)) for name in space.cut_choices}
    projector = Projector(space, WeighedBlocks(weights), Budget({"mflops": Limit(0.55 * sum(weights.values()))}))
    penalties = {name: np.array([float(rng.uniform(0.1, 1)), 0.0]) for name in weights}
    knapsack = Knapsack(projector)
    kept = knapsack.solve(penalties)
    assert projector.usage(kept) <= 1
    assert knapsack.penalty(kept, penalties) <= 1.1 * best_of_all(projector, penalties)


def test_a_block_is_put_back_where_there_is_room_for_it() -> None:
    """The price that drops blocks drops two that cost alike together, and there is room for one of them."""
    groups = space_of((4, 4)).groups
    blocks = (Block("b0", ("g0",)), Block("b1", ("g1",)))
    space = SearchSpace(groups, {group.name: ("l1",) for group in groups}, 0.9, 1, blocks)

    projector = Projector(space, WeighedBlocks({"b0": 1.0, "b1": 1.0}), Budget({"mflops": Limit(1.5)}))
    steps = np.linspace(3.0, 0.0, len(space.cut_choices["g0"]))
    kept = Knapsack(projector).solve({"b0": np.array([0.5, 0.0]), "b1": np.array([0.5, 0.0]), "g0": steps, "g1": steps})
    assert len(kept.dropped_blocks) == 1


def test_rises_are_measured_or_else_the_square_of_the_sparsity() -> None:
    space = space_of((4, 4), max_sparsity=0.8)
    sensitivity = Sensitivity({"g0": Curve(4, {2: 0.3}), "g1": Curve(9, {2: 0.3})})
    assert rises_of(sensitivity, space, "g0")[1] == pytest.approx(0.3)
    assert rises_of(sensitivity, space, "g1").tolist() == [9 / 16, 1 / 4, 1 / 16, 0], "a curve of another network"


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("seed", range(4))
def test_steps_are_those_that_looking_at_each_number_alone_finds(direction: int, seed: int) -> None:
    groups = space_of((6, 40, 9, 70)).groups
    blocks = (Block("b0", ("g1",)), Block("b1"))
    space = SearchSpace(groups, {group.name: ("l1",) for group in groups}, 0.9, 1, blocks)
    choices, penalties = CutChoices(space), random_penalties(space, seed)
    table, rng = choices.tables(penalties), np.random.default_rng(seed)
    kept = np.array([int(rng.integers(len(numbers))) for numbers in space.cut_choices.values()])
    kept[space.cut_names.index("b0")] = seed % 2
    expected = []
    for place, (name, numbers) in enumerate(space.cut_choices.items()):
        to = min(max(int(kept[place]) + direction * max(1, len(numbers) // 16), 0), len(numbers) - 1)
        is_gone = name == "g1" and seed % 2 == 0
        if to == kept[place] or is_gone or (name == "b0" and direction < 0):  # such a block is dropped by price alone
            continue
        change = float(penalties[name][to] - penalties[name][kept[place]])
        held = float(penalties["g1"][kept[space.cut_names.index("g1")]]) if name == "b0" else 0.0
        expected.append((place, to, pytest.approx(change + held)))
    found = choices.steps(kept, table, direction)
    assert list(zip(*(each.tolist() for each in found), strict=True)) == expected
    assert (seed % 2 == 0 and direction > 0) == (space.cut_names.index("b0") in found.places.tolist())
    assert choices.counts(kept[None])[0].tolist() == [
        numbers[place] for numbers, place in zip(space.cut_choices.values(), kept.tolist(), strict=True)
    ]
