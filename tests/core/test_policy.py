"""Policies are plain data: what they refuse, and that JSON gives them back."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.policy import GroupPolicy, PruningPolicy

group_policies = st.builds(GroupPolicy, st.floats(0, 1, exclude_max=True), st.text(min_size=1))
policies = st.builds(PruningPolicy, st.dictionaries(st.text(), group_policies), st.integers(1, 64))


@given(policies)
def test_json_gives_back_the_same_policy(policy: PruningPolicy) -> None:
    text = policy.to_json()
    assert PruningPolicy.from_json(text) == policy
    assert PruningPolicy.from_json(json.loads(text)) == policy
    assert PruningPolicy.from_json(text).to_json() == text


@given(policies)
def test_the_order_of_groups_means_nothing(policy: PruningPolicy) -> None:
    backwards = PruningPolicy(dict(reversed(policy.groups.items())), policy.round_to)
    assert backwards == policy
    assert hash(backwards) == hash(policy)
    assert backwards.to_json() == policy.to_json()


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, math.nan, math.inf])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity: float) -> None:
    with pytest.raises(ValueError, match=f"sparsity is {sparsity}"):
        GroupPolicy(sparsity, "l1")


def test_an_empty_criterion_is_refused() -> None:
    with pytest.raises(ValueError, match="must name a criterion"):
        GroupPolicy(0.5, "")


@pytest.mark.parametrize("round_to", [0, -8])
def test_a_round_to_below_one_is_refused(round_to: int) -> None:
    with pytest.raises(ValueError, match=f"round_to is {round_to}"):
        PruningPolicy({}, round_to)


def test_uniform_says_the_same_of_every_group() -> None:
    policy = PruningPolicy.uniform(0.25, "l2", names=["b", "a"], round_to=4)
    assert policy == PruningPolicy({"a": GroupPolicy(0.25, "l2"), "b": GroupPolicy(0.25, "l2")}, 4)


def test_a_policy_keeps_its_own_copy_of_the_groups() -> None:
    groups = {"a": GroupPolicy(0.5, "l1")}
    policy = PruningPolicy(groups)
    groups.clear()
    assert list(policy.groups) == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"version": 1, "round_to": 1, "groups": []}',
        '{"version": 1, "round_to": 1, "groups": {"a": [0.5]}}',
        '{"version": 1, "round_to": 1, "groups": {"a": [1.5, "l1"]}}',
        '{"version": 1, "round_to": 0, "groups": {}}',
        '{"version": 1, "groups": {}}',
    ],
)
def test_what_is_no_policy_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"policy|sparsity|round_to|unpack"):
        PruningPolicy.from_json(text)


def test_a_later_version_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match="version is 3"):
        PruningPolicy.from_json('{"version": 3, "round_to": 1, "groups": {}}')
