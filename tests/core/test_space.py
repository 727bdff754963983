"""The search space: which channel counts exist, and policy ⇄ flat parameters."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.channel_groups import Block, Member, PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import GroupPolicy, MaskPolicy, PruningPolicy
from autoprune.core.space import MaskSpace, SearchSpace
from autoprune.errors import ModelError
from autoprune.study.policy_params import Dimension, dimensions, params_of, policy_of

CRITERIA = ("l1", "taylor", "random")


def group(name: str, channels: int) -> PruningGroup:
    return PruningGroup(name, channels, (Member(name, "out", tuple(range(channels))),))


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    widths = draw(st.lists(st.integers(1, 200), min_size=1, max_size=5))
    groups = tuple(group(f"layer{i}", width) for i, width in enumerate(widths))
    criteria = st.lists(st.sampled_from(CRITERIA), min_size=1, unique=True).map(tuple)
    importances = {one.name: draw(criteria) for one in groups}
    max_sparsity = draw(st.sampled_from([0.1, 0.5, 0.7, 0.9, 0.95]) | st.floats(0.01, 0.99))
    inner = draw(st.lists(st.sampled_from([one.name for one in groups]), unique=True))
    blocks = draw(st.sampled_from([(), (Block("block0", tuple(inner)), Block("block1"))]))
    masks = [
        None,
        MaskSpace("weight", ("magnitude", "wanda"), ("fc", "block0.fc")),
        MaskSpace("2:4", ("magnitude",), ("fc",)),
    ]
    round_to = draw(st.sampled_from([1, 2, 4, 8, 16]))
    return SearchSpace(groups, importances, max_sparsity, round_to, blocks, draw(st.sampled_from(masks)))


@st.composite
def spaces_with_policies(draw: st.DrawFn) -> tuple[SearchSpace, PruningPolicy]:
    space = draw(spaces())
    sparsity = st.floats(0, 1, exclude_max=True)
    groups = {
        one.name: GroupPolicy(draw(sparsity), draw(st.sampled_from(space.importances[one.name])))
        for one in space.groups
        if draw(st.booleans())
    }
    dropped = tuple(block.name for block in space.blocks if draw(st.booleans()))
    mask = None
    if space.mask:
        layers = {layer: draw(sparsity) for layer in space.mask.layers}
        mask = MaskPolicy(space.mask.pattern, draw(st.sampled_from(space.mask.criteria)), layers)
    return space, PruningPolicy(groups, space.round_to, dropped, mask)


@given(spaces_with_policies())
def test_decode_is_the_inverse_of_encode_in_what_is_built(pair: tuple[SearchSpace, PruningPolicy]) -> None:
    space, policy = pair
    canonical = space.canonical(policy)
    again = policy_of(space, params_of(space, canonical))
    assert space.counts(again) == space.counts(policy)
    assert (again.dropped_blocks, again.mask) == (canonical.dropped_blocks, canonical.mask)
    for name, count in space.counts(policy).channels.items():
        if len(space.channel_choices[name]) == 1:
            assert count == space.full.channels[name]
        else:
            assert again.groups[name] == canonical.groups[name]


@given(spaces_with_policies())
def test_what_a_dropped_block_holds_is_whole(pair: tuple[SearchSpace, PruningPolicy]) -> None:
    space, policy = pair
    counts = space.counts(policy)
    assert counts.dropped_blocks == set(policy.dropped_blocks)
    for block in space.blocks:
        if block.name in policy.dropped_blocks:
            assert all(counts.channels[name] == space.full.channels[name] for name in block.groups)
            assert all(count == 64 for layer, count in counts.mask_units.items() if block.holds(layer))


@given(spaces(), st.data())
def test_encode_is_the_inverse_of_decode_on_canonical_parameters(space: SearchSpace, data: st.DataObject) -> None:
    def value(dimension: Dimension) -> float | str:
        return data.draw(st.sampled_from(dimension.choices) if dimension.choices else st.floats(0, dimension.high))

    params = {dimension.name: value(dimension) for dimension in dimensions(space)}

    def again(given: Mapping[str, float | str]) -> dict[str, float | str]:
        return params_of(space, space.canonical(policy_of(space, given)))

    canonical = again(params)
    assert again(canonical) == canonical
    gone = {inner for block in space.blocks if params[f"{block.name}.dropped"] == "yes" for inner in block.groups}
    chosen = {n: v for n, v in params.items() if isinstance(v, str) and n.removesuffix(".importance") not in gone}
    assert {name: canonical[name] for name in chosen} == chosen


@given(spaces_with_policies())
def test_canonical_is_idempotent_and_builds_the_same(pair: tuple[SearchSpace, PruningPolicy]) -> None:
    space, policy = pair
    canonical = space.canonical(policy)
    assert space.canonical(canonical) == canonical
    assert space.counts(canonical) == space.counts(policy)


@given(spaces_with_policies())
def test_what_is_kept_is_a_choice_and_the_nearest_one(pair: tuple[SearchSpace, PruningPolicy]) -> None:
    space, policy = pair
    gone = {inner for block in space.blocks if block.name in policy.dropped_blocks for inner in block.groups}
    for name, count in space.counts(policy).channels.items():
        if name in gone:
            continue
        wanted = space.by_name[name].num_channels * (1 - getattr(policy.groups.get(name), "sparsity", 0.0))
        assert count in space.channel_choices[name]
        assert abs(count - wanted) == min(abs(choice - wanted) for choice in space.channel_choices[name])


@given(spaces(), st.data())
def test_the_nearest_count_is_the_nearest_and_of_two_the_larger(space: SearchSpace, data: st.DataObject) -> None:
    nearest = [(space.nearest, *each) for each in space.channel_choices.items()]
    nearest += [(space.nearest_units, *each) for each in space.mask_choices.items()]
    for nearest_of, name, choices in nearest:
        exact = st.sampled_from(choices).map(float)
        between = st.sampled_from(choices).map(lambda one: one + 0.5)
        count = data.draw(st.floats(-2, choices[-1] + 2) | exact | between)
        assert nearest_of(name, count) == min(choices, key=lambda choice: (abs(choice - count), -choice))


@given(spaces())
def test_choices_respect_round_to_and_max_sparsity(space: SearchSpace) -> None:
    for one in space.groups:
        *smaller, whole = space.channel_choices[one.name]
        least = one.num_channels * (1 - Fraction(space.max_sparsity))
        assert whole == one.num_channels
        assert smaller == [c for c in range(1, whole) if c % space.round_to == 0 and c >= least - Fraction(1, 10**6)]


@given(spaces())
def test_every_choice_can_be_proposed_and_built(space: SearchSpace) -> None:
    importances = {name: criteria[0] for name, criteria in space.importances.items()}
    highs = {dimension.name: dimension.high for dimension in dimensions(space)}
    for pick in (space.smallest, space.full):
        counts = space.normalized(pick)
        policy = space.policy(counts, importances)
        assert space.policy(counts) == policy, "the first criterion is the default"
        assert space.counts(policy) == counts
        assert space.canonical(policy) == policy
        assert all(0 <= v <= highs[name] for name, v in params_of(space, policy).items() if name.endswith(".sparsity"))


def test_max_sparsity_is_exact_at_round_fractions() -> None:
    space = SearchSpace((group("a", 10),), {"a": ("l1",)}, max_sparsity=0.9)
    assert space.channel_choices["a"] == tuple(range(1, 11))


def test_a_tie_between_two_counts_keeps_more() -> None:
    space = SearchSpace((group("a", 16),), {"a": ("l1",)}, round_to=4)
    assert space.channel_choices["a"] == (4, 8, 12, 16)
    assert (space.nearest("a", 6), space.nearest("a", 5.9)) == (8, 4)


def test_a_dimension_exists_only_where_there_is_a_choice() -> None:
    groups = (group("wide", 16), group("plain", 16), group("narrow", 3))
    space = SearchSpace(groups, {"wide": CRITERIA, "plain": ("l1",), "narrow": CRITERIA}, 0.5, round_to=8)
    assert dimensions(space) == (
        Dimension("wide.sparsity", high=0.5),
        Dimension("wide.importance", choices=CRITERIA),
        Dimension("plain.sparsity", high=0.5),
    )


def test_an_unnamed_group_stays_whole() -> None:
    space = SearchSpace((group("a", 8), group("b", 8)), {"a": ("l1",), "b": ("l2",)})
    policy = PruningPolicy.uniform(0.5, "l1", names=["a"])
    assert space.counts(policy) == ChannelCounts({"a": 4, "b": 8})
    assert space.canonical(policy).groups["b"] == GroupPolicy(0.0, "l2")


@pytest.mark.parametrize("method", ["counts", "canonical"])
def test_an_unknown_group_is_named(method: str) -> None:
    space = SearchSpace((group("a", 8),), {"a": ("l1",)})
    with pytest.raises(ModelError, match=r"cannot cut: layer9\.conv1; `autoprune inspect`"):
        getattr(space, method)(PruningPolicy.uniform(0.5, "l1", names=["a", "layer9.conv1"]))


def test_a_space_without_groups_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing to search"):
        SearchSpace((), {})


def test_a_member_owns_consecutive_indices_per_channel() -> None:
    member = Member("fc", "in", (0, 1, 4, 5), width=2)
    assert (member.of(0), member.of(1)) == ((0, 1), (4, 5))


def test_cut_numbers_name_groups_and_blocks_and_lead_back() -> None:
    space = SearchSpace((group("a", 8), group("b", 6)), {"a": ("l1",), "b": ("l1",)}, blocks=(Block("c", ("b",)),))
    assert space.cut_names == ("a", "b", "c")
    assert space.cut_numbers(space.full) == {"a": 8, "b": 6, "c": 1}
    dropped = space.normalized(ChannelCounts({"a": 3, "b": 2}, frozenset({"c"})))
    assert space.cut_numbers(dropped) == {"a": 3, "b": 6, "c": 0}
    assert space.normalized(space.of_cut_numbers(space.cut_numbers(dropped))) == dropped
    assert space.of_cut_numbers({"a": 3}) == ChannelCounts({"a": 3})
