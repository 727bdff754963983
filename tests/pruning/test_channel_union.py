"""Channels that meet are one; what meets a constant is frozen, and the first reason stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoprune.pruning.tracing.channel_union import Channels, compact


def classes_of(channels: Channels) -> dict[tuple[str, str], list[int]]:
    return dict(channels.owners())


def test_a_side_has_the_same_atoms_at_every_call_and_no_two_sides_share_one() -> None:
    channels = Channels()
    out, read = channels.atoms("a", "out", 3), channels.atoms("a", "in", 2)
    assert torch.equal(channels.atoms("a", "out", 3), out)
    assert len({*out.tolist(), *read.tolist()}) == 5
    assert 0 not in [*out.tolist(), *read.tolist()]


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_united_atoms_are_the_connected_ones(pairs: list[tuple[int, int]]) -> None:
    channels = Channels()
    atoms = channels.atoms("a", "out", 10)
    reached = {i: {i} for i in range(10)}
    for a, b in pairs:
        channels.unite(atoms[a : a + 1], atoms[b : b + 1])
        together = reached[a] | reached[b]
        for i in together:
            reached[i] = together
    (classes,) = classes_of(channels).values()
    for i in range(10):
        assert {j for j in range(10) if classes[j] == classes[i]} == reached[i]


def test_an_atom_that_meets_nothing_is_frozen_and_takes_its_class_along() -> None:
    channels = Channels(lambda: " (here)")
    a, b = channels.atoms("a", "out", 2), channels.atoms("b", "out", 2)
    channels.unite(a, torch.tensor([0, 2]))
    channels.unite(a, b)
    reason = "is combined with a tensor of fixed size (here)"
    assert [channels.reason(int(atom)) for atom in (*a, *b)] == [reason, None, reason, None]


def test_the_first_reason_stays_and_goes_with_the_class() -> None:
    channels = Channels(lambda: " (line 7)")
    a, b = channels.atoms("a", "out", 2), channels.atoms("b", "out", 2)
    channels.freeze(b[:1], "is b")
    channels.freeze(b[:1], "is late")
    channels.freeze(a[1:], "is the output", here=False)
    channels.freeze(None, "is nothing")
    channels.unite(a, b)
    assert [channels.reason(int(atom)) for atom in a] == ["is b (line 7)", "is the output"]


def test_positions_unite_along_the_dimensions_named() -> None:
    channels = Channels()
    labels = channels.atoms("a", "out", 6).view(2, 3)
    channels.unite_along(labels, [1])
    assert classes_of(channels) == {("a", "out"): [1, 1, 1, 4, 4, 4]}
    assert torch.equal(channels.classes(labels), torch.tensor([[1, 1, 1], [4, 4, 4]]))
    assert channels.varying(labels) == {0}
    assert channels.varying(labels.expand(5, 2, 3)) == {1}
    assert channels.varying(None) == channels.varying(labels[:1, :1]) == set()


def test_sums_are_known_by_their_class() -> None:
    channels = Channels()
    a, b = channels.atoms("a", "out", 2), channels.atoms("b", "out", 2)
    channels.note_added(b)
    assert channels.added() == set(b.tolist())
    channels.unite(a, b)
    assert channels.added() == set(a.tolist())


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([torch.tensor([[1], [2]]).expand(2, 500)], [[1, 2]]),
        ([torch.tensor([[1], [2]]).expand(2, 2), torch.tensor([[3, 4]])], [[1, 1, 2, 2], [3, 4, 3, 4]]),
        ([torch.tensor([[1], [2]]).expand(2, 9), torch.tensor([[5]])], [[1, 2], [5, 5]]),
        ([torch.zeros(0, 3, dtype=torch.int64)], [[]]),
    ],
)
def test_what_does_not_change_is_looked_at_once(tensors: list[Tensor], expected: list[list[int]]) -> None:
    assert [found.tolist() for found in compact(*tensors)] == expected
