"""Baselines: the policies every paper compares with, on the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from study_fakes import chain_cost, full_cost, measured_many, space_of

from autoprune.core.budget import Budget, Limit
from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.space import SearchSpace
from autoprune.search.proposals.baselines import baselines
from autoprune.search.proposals.budget_projection import FILL_TO, Projector

Scores = dict[str, dict[str, NDArray[np.float64]]]


def projector_of(space: SearchSpace, share: float, positions: list[int] | None = None) -> Projector:
    cost = chain_cost(space, positions)
    return Projector(space, cost, Budget({"mflops": Limit(share * full_cost(space, cost)["mflops"])}))


def flat_scores(space: SearchSpace, seed: int = 0, name: str = "l1") -> Scores:
    stream = np.random.RandomState(seed)
    return {name: {g.name: stream.rand(g.num_channels) + 0.1 for g in space.groups}}


def ratios(space: SearchSpace, kept: ChannelCounts) -> list[float]:
    return [kept.channels[g.name] / g.num_channels for g in space.groups]


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_uniform_keeps_one_ratio_everywhere_up_to_a_channel_step(share: float) -> None:
    space = space_of((16, 32, 64, 64, 128))
    projector = projector_of(space, share)
    kept = space.counts(baselines(projector, {})["uniform"])
    assert FILL_TO <= projector.usage(kept) <= 1
    common = [
        ratio
        for ratio in np.linspace(0.1, 1, 2001)
        # rounding moves a count by half a channel, filling the gap raises it by at most one more
        if all(-0.5 <= kept.channels[g.name] - ratio * g.num_channels <= 1.5 for g in space.groups)
    ]
    assert common, f"no common ratio explains {kept}"


def test_uniform_is_exact_where_one_ratio_meets_the_budget() -> None:
    space = space_of((16, 32, 64))
    cost = chain_cost(space)
    half = cost.measure(ChannelCounts({g.name: g.num_channels // 2 for g in space.groups}))["mflops"]
    projector = Projector(space, cost, Budget({"mflops": Limit(half)}))
    assert ratios(space, space.counts(baselines(projector, {})["uniform"])) == [0.5, 0.5, 0.5]


def test_uniform_and_inner_use_the_criterion_listed_first() -> None:
    space = space_of((16, 32, 64), importances=("fpgm", "l1"), residual=(0,))
    found = baselines(projector_of(space, 0.6), {})
    assert {g.importance for name in ("uniform", "inner") for g in found[name].groups.values()} == {"fpgm"}


def test_inner_leaves_residual_groups_whole() -> None:
    space = space_of((16, 32, 16, 32), residual=(0, 2))
    projector = projector_of(space, 0.6)
    kept = space.counts(baselines(projector, {})["inner"])
    assert (kept.channels["g0"], kept.channels["g2"]) == (16, 16)
    assert kept.channels["g1"] < 32
    assert kept.channels["g3"] < 32
    assert FILL_TO <= projector.usage(kept) <= 1


def test_inner_is_left_out_where_it_cannot_reach_the_budget() -> None:
    space = space_of((16, 16, 16), residual=(0, 1))
    found = baselines(projector_of(space, 0.3), {})
    assert "inner" not in found
    assert "uniform" in found


@pytest.mark.parametrize("residual", [(), (0, 1, 2)])
def test_inner_is_left_out_where_there_is_nothing_to_leave_whole(residual: tuple[int, ...]) -> None:
    space = space_of((16, 16, 16), residual=residual)
    scores = {"l1": {"g0": np.arange(16.0) + 30, "g1": np.arange(16.0) ** 3, "g2": np.ones(16)}}
    assert set(baselines(projector_of(space, 0.5), scores)) == {"uniform", "global"}


def test_global_removes_the_lowest_ranked_channels_of_the_network() -> None:
    space = space_of((20, 20, 20), importances=("taylor",))
    ranks = np.random.RandomState(7).permutation(60).astype(float)
    scores = {"taylor": {f"g{i}": ranks[20 * i : 20 * i + 20] for i in range(3)}}
    projector = projector_of(space, 0.5, [10, 10, 10])
    kept = space.counts(baselines(projector, scores)["global"])
    assert FILL_TO <= projector.usage(kept) <= 1
    # a threshold explains every group's count, up to the channels that filling the gap gave back
    explained = [
        threshold
        for threshold in range(60)
        if all(0 <= kept.channels[n] - int((v > threshold).sum()) <= 1 for n, v in scores["taylor"].items())
    ]
    assert explained, f"no threshold explains {kept}"


def test_global_spares_the_group_that_scores_highest() -> None:
    space = space_of((20, 20), importances=("taylor",))
    low, high = np.arange(20.0), np.arange(100.0, 120.0)
    kept = space.counts(baselines(projector_of(space, 0.6, [10, 10]), {"taylor": {"g0": low, "g1": high}})["global"])
    assert kept.channels["g1"] == 20
    assert kept.channels["g0"] < 20


def test_global_scales_scores_that_are_not_comparable_between_layers() -> None:
    space = space_of((20, 20), importances=("l1",))
    same = np.linspace(1, 2, 20)
    projector = projector_of(space, 0.5, [10, 10])
    one = baselines(projector, {"l1": {"g0": same, "g1": same}})
    scaled = baselines(projector, {"l1": {"g0": same, "g1": 1024 * same}})
    # equal shapes rank equally once scaled, and that is the uniform policy
    assert one == scaled
    assert set(scaled) <= {"uniform", "global", "isomorphic"}
    assert scaled.get("global", scaled["uniform"]) == scaled["uniform"]


def test_global_ranks_by_taylor_where_it_can_and_never_at_random() -> None:
    space = space_of((20, 20), importances=("l1", "taylor", "random"))
    everything = flat_scores(space, 1, "random") | flat_scores(space, 2, "l1") | flat_scores(space, 3, "taylor")
    everything["l1"] = {"g0": np.linspace(1, 2, 20) ** 6, "g1": np.linspace(1, 2, 20)}  # not what uniform would cut
    projector = projector_of(space, 0.5)
    chosen = baselines(projector, everything)["global"]
    assert {g.importance for g in chosen.groups.values()} == {"taylor"}
    del everything["taylor"]
    chosen = baselines(projector, everything)["global"]
    assert {g.importance for g in chosen.groups.values()} == {"l1"}


@pytest.mark.parametrize(
    "scores", [{}, {"random": {"g0": np.ones(20), "g1": np.ones(20)}}, {"l1": {"g0": np.ones(20)}}]
)
def test_global_is_left_out_where_nothing_ranks_every_group(scores: Scores) -> None:
    space = space_of((20, 20))
    assert set(baselines(projector_of(space, 0.5), scores)) == {"uniform"}


def test_a_baseline_equal_to_an_earlier_one_is_left_out() -> None:
    space = space_of((16,), importances=("l1",))
    found = baselines(projector_of(space, 0.5), flat_scores(space))
    assert set(found) == {"uniform"}


def test_baselines_come_in_a_fixed_order_and_are_all_different() -> None:
    space = space_of((16, 32, 16, 64), residual=(0, 2))
    found = baselines(projector_of(space, 0.6), flat_scores(space))
    assert list(found) == ["uniform", "inner", "global"]
    assert len(set(found.values())) == 3


def test_there_are_no_baselines_without_a_budget() -> None:
    space = space_of((16, 32))
    assert baselines(Projector(space, chain_cost(space), Budget()), flat_scores(space)) == {}


def test_there_are_no_baselines_where_none_can_reach_the_budget() -> None:
    space = space_of((16, 32), max_sparsity=0.1)
    assert baselines(projector_of(space, 0.2), flat_scores(space)) == {}


class DeepCost:
    """Cost a group its channels, and nothing if its block is dropped."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        blocks = {"g1": "b0", "g2": "b1", "g3": "b2"}
        alive = [n for name, n in counts.channels.items() if blocks.get(name) not in counts.dropped_blocks]
        return Measurement({"mflops": float(sum(alive))})

    def measure_many(self, names: Sequence[str], counts: Any) -> dict[str, Any]:
        return measured_many(self.measure, names, counts)


def deep_space() -> SearchSpace:
    return replace(space_of((100, 100, 100, 100)), blocks=tuple(Block(f"b{i}", (f"g{i + 1}",)) for i in range(3)))


@pytest.mark.parametrize(("limit", "dropped"), [(350, ("b1",)), (250, ("b0", "b2")), (150, ("b0", "b1", "b2"))])
def test_depth_drops_as_few_blocks_as_it_must_evenly_spread(limit: float, dropped: tuple[str, ...]) -> None:
    space = deep_space()
    found = baselines(Projector(space, DeepCost(), Budget({"mflops": Limit(limit)})), flat_scores(space))
    assert found["depth"].dropped_blocks == dropped
    assert found["uniform"].dropped_blocks == ()


def test_depth_is_left_out_where_blocks_may_not_go_or_do_not_suffice() -> None:
    space = deep_space()
    assert "depth" not in baselines(Projector(space, DeepCost(), Budget({"mflops": Limit(90)})), flat_scores(space))
    plain = space_of((16, 32))
    assert "depth" not in baselines(projector_of(plain, 0.5), flat_scores(plain))


def test_threshold_is_in_proportion_to_what_each_group_tolerates() -> None:
    space = space_of((64, 64, 64))
    projector = projector_of(space, 0.3)
    found = baselines(projector, flat_scores(space), {"g0": 60, "g1": 30, "g2": 15})
    kept = space.counts(found["threshold"])
    assert kept.channels["g0"] > 1.5 * kept.channels["g1"] > 2 * kept.channels["g2"]
    assert FILL_TO <= projector.usage(kept) <= 1
    assert "threshold" not in baselines(projector, flat_scores(space))


def test_isomorphic_takes_the_same_share_of_each_kind_and_from_the_group_whose_channels_differ() -> None:
    space = space_of((32, 32, 32, 32), importances=("l2",), residual=(0,))
    alike, unlike = np.linspace(0.99, 1.01, 32), np.geomspace(0.01, 1.0, 32)
    scores = {"l2": {"g0": alike, "g1": alike, "g2": unlike, "g3": 7 * alike}}
    projector = projector_of(space, 0.5)
    kept = space.counts(baselines(projector, scores)["isomorphic"])
    assert FILL_TO <= projector.usage(kept) <= 1
    assert kept.channels["g2"] < 10  # far below its own mean, again and again
    assert kept.channels["g1"] == pytest.approx(
        kept.channels["g3"], abs=2
    )  # how large a layer's weights are altogether does not count
    inner = (kept.channels["g1"] + kept.channels["g2"] + kept.channels["g3"]) / 96
    assert inner == pytest.approx(kept.channels["g0"] / 32, abs=0.1)  # streams lose the share that inner groups lose


def test_isomorphic_needs_a_magnitude_of_every_group() -> None:
    space = space_of((16, 16), importances=("l2",))
    scores = {"l2": {"g0": np.ones(16)}, "fisher": {"g0": np.ones(16), "g1": np.ones(16)}}
    assert "isomorphic" not in baselines(projector_of(space, 0.5), scores)
