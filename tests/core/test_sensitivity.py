"""Curves of what cutting one group alone does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.sensitivity import Curve, Sensitivity

RISES = st.dictionaries(st.integers(1, 31), st.floats(-0.5, 20), min_size=1, max_size=5)


@given(rises=RISES)
def test_a_curve_is_zero_for_the_whole_group_and_never_falls(rises: dict[int, float]) -> None:
    found = Curve(32, rises).at(tuple(range(1, 33)))
    assert found[-1] == 0
    assert (np.diff(found) <= 1e-12).all()
    assert np.isfinite(found).all()
    assert (found[:-1] > 0).all()


@given(rises=st.dictionaries(st.integers(1, 31), st.floats(0.2, 20), min_size=1, max_size=5))
def test_a_curve_that_rises_goes_through_what_was_measured(rises: dict[int, float]) -> None:
    """One that rises at least with the square of the sparsity does."""
    kept = sorted(rises, reverse=True)
    squares = [(1 - count / 32) ** 2 for count in kept]
    rising = dict(zip(kept, np.cumsum([rises[count] for count in kept]) * squares, strict=True))
    assert Curve(32, rising).at(tuple(kept)) == pytest.approx(list(rising.values()))


def test_a_curve_that_bends_down_is_not_trusted_below_the_square() -> None:
    """The loss of a network that guesses rises no more, and that makes no cut cheap."""
    assert Curve(16, {8: 0.9, 4: 1.0}).at((8, 4)) == pytest.approx([0.9, 0.9 * 2.25])


def test_a_block_has_two_counts() -> None:
    assert Curve(1, {0: 0.25}).at((0, 1)).tolist() == [pytest.approx(0.25), 0.0]


def test_a_group_that_was_never_cut_has_no_rise() -> None:
    assert Curve(4, {}).at((1, 4)).tolist() == [0, 0]


@given(curves=st.dictionaries(st.text(min_size=1), RISES))
def test_json_round_trip_is_identity(curves: dict[str, dict[int, float]]) -> None:
    document = Sensitivity({name: Curve(32, rises) for name, rises in curves.items()}, 0.3, 1.5, {"images": 8})
    assert Sensitivity.from_json(document.to_json()) == document


def test_numbers_and_types_that_cannot_be_are_refused() -> None:
    good = json.loads(Sensitivity({"a": Curve(4, {2: 0.5})}, 0.3, 1.5, {"images": 8}).to_json())
    huge = 10**400
    for key, value in (("dense_loss", huge), ("dense_loss", []), ("seconds", "x"), ("settings", 3), ("curves", None)):
        with pytest.raises(ValueError, match=r"sensitivity document|could not convert"):
            Sensitivity.from_json(json.dumps({**good, key: value}))
    for curve in ({"full": 4, "rises": {"2": huge}}, {"full": [], "rises": {}}, {"full": 4, "rises": [1]}, 5):
        with pytest.raises(ValueError, match="sensitivity document"):
            Sensitivity.from_json(json.dumps({**good, "curves": {"a": curve}}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "curves": 3}'])
def test_another_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|sensitivity|version"):
        Sensitivity.from_json(text)
