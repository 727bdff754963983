"""Projection: every proposal lies on the budget, never above it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from study_fakes import ChainCost, chain_cost, full_cost, smallest_cost, space_of

from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.space import MaskSpace, SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.errors import BudgetError
from autoprune.models.build import build_model
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.search.proposals.budget_projection import FILL_TO, Projector, closed_form_part
from autoprune.study.policy_params import dimensions, params_of, policy_of

CLOSED = ("mflops", "mparams", "size_mb")


@st.composite
def spaces(draw: st.DrawFn) -> tuple[SearchSpace, ChainCost]:
    widths = draw(st.lists(st.integers(1, 64), min_size=1, max_size=6))
    space = space_of(widths, max_sparsity=draw(st.floats(0.05, 0.95)), round_to=draw(st.sampled_from((1, 2, 4, 8, 16))))
    positions = draw(st.lists(st.integers(1, 1024), min_size=len(widths), max_size=len(widths)))
    return space, chain_cost(space, positions, constant=draw(st.sampled_from((0.0, 0.5))))


@st.composite
def policies(draw: st.DrawFn, space: SearchSpace) -> PruningPolicy:
    """Draw a policy over some or all groups, with sparsities that exist and others that do not."""
    named = draw(st.sets(st.sampled_from(sorted(space.by_name))))
    groups = {
        name: GroupPolicy(draw(st.floats(0, 0.97)), draw(st.sampled_from(space.importances[name])))
        for name in sorted(named)
    }
    return PruningPolicy(groups, space.round_to)


@st.composite
def budgets(draw: st.DrawFn, space: SearchSpace, cost: ChainCost) -> Budget:
    """Draw one to three limits between the smallest network and one and a half times the dense one."""
    smallest, full = smallest_cost(space, cost), full_cost(space, cost)
    names = draw(st.sets(st.sampled_from(CLOSED), min_size=1))
    return Budget({n: Limit(smallest[n] + draw(st.floats(0, 1.5)) * (full[n] - smallest[n])) for n in sorted(names)})


def single_steps(space: SearchSpace, kept: ChannelCounts, free: frozenset[str]) -> list[ChannelCounts]:
    """Return every network with one free group raised to its next channel count."""
    larger = {name: [count for count in space.channel_choices[name] if count > kept.channels[name]] for name in free}
    return [kept.with_channels({name: counts[0]}) for name, counts in larger.items() if counts]


@given(st.data())
@settings(max_examples=200)
def test_projection_is_within_every_limit_and_leaves_no_step_unused(data: Any) -> None:
    space, cost = data.draw(spaces())
    budget = data.draw(budgets(space, cost))
    projector = Projector(space, cost, budget)
    policy = data.draw(policies(space))

    projected = projector.project(policy)
    kept = space.counts(projected)

    assert budget.admits(cost.measure(kept)), "over a limit"
    assert all(n in space.channel_choices[name] for name, n in kept.channels.items()), (
        "a channel count that does not exist"
    )
    assert projected == space.canonical(projected)
    assert projected.round_to == space.round_to
    assert {n: g.importance for n, g in projected.groups.items()} == {
        n: policy.groups[n].importance if n in policy.groups else space.importances[n][0] for n in space.by_name
    }
    if projector.usage(kept) < FILL_TO:
        steps = single_steps(space, kept, frozenset(kept.channels))
        assert all(projector.usage(larger) > 1 for larger in steps), "a channel more would still fit"
    assert projector.project(projected) == projected, "not idempotent"


@given(st.data())
@settings(max_examples=100)
def test_groups_held_fixed_stay_as_the_policy_says_or_the_budget_is_refused(data: Any) -> None:
    space, cost = data.draw(spaces())
    budget = data.draw(budgets(space, cost))
    projector = Projector(space, cost, budget)
    policy = data.draw(policies(space))
    free = frozenset(data.draw(st.sets(st.sampled_from(sorted(space.by_name)))))
    asked = space.counts(policy)
    least = ChannelCounts({n: space.channel_choices[n][0] if n in free else asked.channels[n] for n in asked.channels})

    if projector.usage(least) > 1:
        with pytest.raises(BudgetError, match="cannot meet"):
            projector.project(policy, free)
        return
    kept = space.counts(projector.project(policy, free))
    assert all(kept.channels[name] == asked.channels[name] for name in kept.channels if name not in free)
    assert budget.admits(cost.measure(kept))
    if projector.usage(kept) < FILL_TO:
        assert all(projector.usage(larger) > 1 for larger in single_steps(space, kept, free))


@given(st.data())
@settings(max_examples=60)
def test_a_budget_below_the_smallest_network_is_refused_and_the_smallest_itself_is_not(data: Any) -> None:
    space, cost = data.draw(spaces())
    smallest = smallest_cost(space, cost)
    name = data.draw(st.sampled_from(CLOSED))
    policy = data.draw(policies(space))
    with pytest.raises(BudgetError, match="cannot meet"):
        Projector(space, cost, Budget({name: Limit(smallest[name] * 0.999)})).project(policy)
    exactly = Projector(space, cost, Budget({name: Limit(smallest[name])}))
    assert exactly.usage(space.counts(exactly.project(policy))) == 1


@given(st.data())
@settings(max_examples=60)
def test_limits_without_closed_form_change_nothing(data: Any) -> None:
    space, cost = data.draw(spaces())
    policy = data.draw(policies(space))
    free = Projector(space, cost, Budget({"latency_ms": Limit(1e-3)}))
    assert not closed_form_part(free.budget).limits
    assert free.project(policy) == space.canonical(policy)
    budget = data.draw(budgets(space, cost))
    both = Budget({**budget.limits, "latency_ms": Limit(1e-3)})
    assert Projector(space, cost, both).project(policy) == Projector(space, cost, budget).project(policy)


@given(st.data())
@settings(max_examples=60)
def test_a_policy_that_lies_on_the_budget_is_left_alone(data: Any) -> None:
    space, cost = data.draw(spaces())
    policy = data.draw(policies(space))
    mflops = cost.measure(space.counts(policy))["mflops"]
    limit = mflops / data.draw(st.floats(FILL_TO + 1e-9, 1.0))
    assert Projector(space, cost, Budget({"mflops": Limit(limit)})).project(policy) == space.canonical(policy)


@cache
def real(name: str, deep: bool = False, pattern: str = "") -> tuple[SearchSpace, CostModel]:
    network = build_model(name, num_classes=10, in_channels=3, seed=0).eval()
    example = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    groups = find_groups(network, example).cuttable
    blocks = find_blocks(network, example, groups) if deep else ()
    mask = MaskSpace(pattern, ("magnitude", "wanda"), maskable_layers(network, pattern).layers) if pattern else None
    space = SearchSpace(groups, {g.name: ("l1", "taylor") for g in groups}, blocks=blocks, mask=mask)
    channels = {g.name: g.num_channels for g in groups}
    cost = CostModel(
        network,
        tensor_shrinks(network, groups),
        channels,
        example,
        blocks=blocks,
        masked_layers=mask.layers if mask else (),
        mask_pattern=pattern or "weight",
    )
    return space, cost


def full(space: SearchSpace, cost: CostModel, name: str) -> float:
    return cost.measure(space.full)[name]


def any_params(space: SearchSpace, data: Any) -> dict[str, float | str]:
    return {
        d.name: data.draw(st.sampled_from(d.choices)) if d.choices else data.draw(st.floats(0, d.high))
        for d in dimensions(space)
    }


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet20", "resnet56"])
@given(data=st.data())
@settings(max_examples=60)
def test_a_resnet_between_30_and_80_per_cent_always_uses_98_per_cent(model: str, data: Any) -> None:
    space, cost = real(model)
    limit = data.draw(st.floats(0.3, 0.8)) * full(space, cost, "mflops")
    projector = Projector(space, cost, Budget({"mflops": Limit(limit)}))
    projected = projector.project(policy_of(space, any_params(space, data)))
    assert FILL_TO <= projector.usage(space.counts(projected)) <= 1
    assert cost.measure(space.counts(projected))["mflops"] <= limit
    assert projector.project(projected) == projected


@pytest.mark.long
@given(data=st.data(), share=st.floats(0.1, 0.9))
@settings(max_examples=60)
def test_with_blocks_to_drop_a_budget_is_met_and_used_all_the_same(data: Any, share: float) -> None:
    space, cost = real("resnet20", deep=True)
    assert len(space.blocks) == 7
    projector = Projector(space, cost, Budget({"mflops": Limit(share * full(space, cost, "mflops"))}))
    projected = projector.project(policy_of(space, any_params(space, data)))
    assert FILL_TO <= projector.usage(space.counts(projected)) <= 1
    assert projector.project(projected) == projected
    assert policy_of(space, params_of(space, projected)) == projected
    for block in space.blocks:
        if block.name in projected.dropped_blocks:
            assert all(projected.groups[inner].sparsity == 0 for inner in block.groups)


@pytest.mark.parametrize(("pattern", "share"), [("weight", 0.3), ("2:4", 0.55)])
@given(data=st.data())
@settings(max_examples=25)
def test_masks_are_scaled_to_a_budget_of_what_is_not_zero(pattern: str, share: float, data: Any) -> None:
    space, cost = real("resnet20", pattern=pattern)
    limit = share * full(space, cost, "nonzero_mflops")
    projector = Projector(space, cost, Budget({"nonzero_mflops": Limit(limit)}))
    projected = projector.project(policy_of(space, any_params(space, data)))
    assert 0.95 * limit <= cost.measure(space.counts(projected))["nonzero_mflops"] <= limit
    assert projected.mask is not None
    assert projected.mask.pattern == pattern
    assert policy_of(space, params_of(space, projected)) == projected


def test_a_mask_is_left_alone_by_a_budget_of_dense_flops() -> None:
    space, cost = real("resnet20", pattern="weight")
    projector = Projector(space, cost, Budget({"mflops": Limit(0.5 * full(space, cost, "mflops"))}))
    params = {d.name: d.choices[0] if d.choices else 0.5 * ("mask" in d.name) for d in dimensions(space)}
    projected = projector.project(policy_of(space, params))
    assert projected.mask is not None
    assert set(projected.mask.layers.values()) == {0.5}
    assert projector.usage(space.counts(projected)) >= FILL_TO


@given(data=st.data())
@settings(max_examples=40)
def test_a_larger_budget_is_never_spent_less(data: Any) -> None:
    space, cost = real("resnet20")
    sparsities = {g.name: GroupPolicy(data.draw(st.floats(0, 0.9)), "l1") for g in space.groups}
    policy = PruningPolicy(sparsities)
    small = data.draw(st.floats(0.3, 0.75))
    large = small * data.draw(st.floats(1 / FILL_TO + 1e-6, 1.3))
    costs, kept = [], []
    for share in (small, large):
        budget = Budget({"mflops": Limit(share * full(space, cost, "mflops"))})
        kept.append(space.counts(Projector(space, cost, budget).project(policy)))
        costs.append(cost.measure(kept[-1])["mflops"])
    assert costs[0] <= costs[1]
    assume(large > 1.1 * small)  # beyond what filling the gap may move, no group shrinks when the budget grows
    assert all(kept[0].channels[g.name] <= kept[1].channels[g.name] + 1 for g in space.groups)


@given(st.floats(0.35, 0.8), st.floats(0.35, 0.8), st.floats(0.35, 0.8))
@settings(max_examples=40)
def test_several_limits_hold_together_and_the_tightest_is_used(mflops: float, mparams: float, size: float) -> None:
    space, cost = real("resnet20")
    shares = {"mflops": mflops, "mparams": mparams, "size_mb": size}
    budget = Budget({name: Limit(share * full(space, cost, name)) for name, share in shares.items()})
    projector = Projector(space, cost, budget)
    found = cost.measure(space.counts(projector.project(PruningPolicy())))
    assert budget.admits(found)
    used = {name: found[name] / limit.value for name, limit in budget.limits.items()}
    assert FILL_TO <= max(used.values()) <= 1
    assert projector.usage(space.counts(projector.project(PruningPolicy()))) == max(used.values())


@given(st.sampled_from((2, 4, 8)), st.floats(0.3, 0.8), st.floats(0.5, 0.9))
@settings(max_examples=30)
def test_rounding_and_the_floor_hold_on_a_real_network(round_to: int, share: float, max_sparsity: float) -> None:
    plain, cost = real("resnet20")
    space = replace(plain, round_to=round_to, max_sparsity=max_sparsity)
    projector = Projector(space, cost, Budget({"mflops": Limit(share * full(space, cost, "mflops"))}))
    if projector.usage(space.smallest) > 1:
        with pytest.raises(BudgetError):
            projector.project(PruningPolicy())
        return
    kept = space.counts(projector.project(PruningPolicy()))
    for group in space.groups:
        count = kept.channels[group.name]
        assert count == group.num_channels or count % round_to == 0
        assert count >= group.num_channels * (1 - max_sparsity) - 1e-9
    assert projector.usage(kept) <= 1


def test_proportions_are_kept_where_the_budget_allows() -> None:
    space = space_of((64, 64, 64))
    cost = chain_cost(space, (10, 10, 10))
    policy = PruningPolicy({"g0": GroupPolicy(0.0, "l1"), "g1": GroupPolicy(0.5, "l2"), "g2": GroupPolicy(0.75, "l1")})
    budget = Budget({"mflops": Limit(0.1 * full_cost(space, cost)["mflops"])})
    kept = space.counts(Projector(space, cost, budget).project(policy)).channels
    assert abs(kept["g0"] - 2 * kept["g1"]) <= 3
    assert abs(kept["g1"] - 2 * kept["g2"]) <= 3
