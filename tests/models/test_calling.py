"""What networks are called with, and what they answer."""

from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from autoprune.models.calling.answers import difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors, tensors_in


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Held:
    inside: Tensor
    name: str


X, Y = torch.arange(6.0).view(2, 3), torch.arange(4).view(2, 2)


@pytest.mark.parametrize(
    ("given", "args", "kwargs"),
    [
        (X, 1, set()),
        ((X, Y), 2, set()),
        ([X, Y], 1, set()),
        (Pair(X, Y), 1, set()),
        ({"x": X, "y": Y}, 0, {"x", "y"}),
        (UserDict({"x": X}), 0, {"x"}),
        (((X,), {"y": Y}), 1, {"y"}),
        ((X, {"y": Y}), 2, set()),
    ],
)
def test_what_is_given_becomes_arguments(given: object, args: int, kwargs: set[str]) -> None:
    inputs = Inputs.of(given)
    assert (len(inputs.args), set(inputs.kwargs)) == (args, kwargs)
    assert Inputs.of(inputs) is inputs
    assert all(any(tensor is known for known in (X, Y)) for tensor in inputs.tensors)


@pytest.mark.parametrize(
    "holder", [[X, Y], (X, Y), {"a": X, "b": [Y]}, OrderedDict(a=X, b=Y), Pair(X, Y), {"held": Held(X, "n"), "y": Y}]
)
def test_every_structure_keeps_its_kind_when_its_tensors_change(holder: object) -> None:
    doubled = map_tensors(holder, lambda tensor: tensor * 2)
    assert type(doubled) is type(holder)
    assert all(torch.equal(a, b * 2) for a, b in zip(tensors_in(doubled), tensors_in(holder), strict=True))
    assert len(tensors_in(holder)) == 2


def test_a_packed_sequence_changes_its_numbers_only() -> None:
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    changed = Inputs.of(packed).real_as(torch.float64).args[0]
    assert changed.data.dtype == torch.float64
    assert torch.equal(changed.batch_sizes, packed.batch_sizes)


def test_examples_are_counted_where_they_can_be_told_apart() -> None:
    assert Inputs.of((X, Y)).size == 2
    assert Inputs.of((X, torch.ones(3))).size is None
    assert Inputs.of([X, X]).size is None  # images of a list are examples themselves
    assert Inputs.of((X, torch.tensor(1.0))).size is None
    assert Inputs.of((X, Y)).first(1).tensors[1].shape == (1, 2)
    assert Inputs.of([X, X]).first(1).tensors[1].shape == X.shape


def test_a_single_example_is_joined_by_its_mirror_image() -> None:
    (twice,) = Inputs.of(torch.tensor([[1.0, 2.0]])).at_least_two().tensors
    assert twice.tolist() == [[1.0, 2.0], [2.0, 1.0]]
    assert Inputs.of(X).at_least_two().tensors[0] is X


def test_differences_count_only_where_numbers_differ() -> None:
    infinite = torch.tensor([float("inf"), float("nan"), 1.0])
    assert difference(infinite, infinite.clone()) == 0
    assert difference(torch.tensor([1.0]), torch.tensor([1.5])) == 0.5
    assert difference(torch.tensor([1]), torch.tensor([2])) == float("inf")
    assert difference(torch.tensor([1 + 1j]), torch.tensor([1 + 3j])) == 2
    assert difference(torch.empty(0), torch.empty(0)) == 0
    assert (magnitude(infinite), magnitude(torch.tensor([3])), magnitude(torch.empty(0))) == (1, 0, 0)
