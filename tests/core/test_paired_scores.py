"""Hits: packed and unpacked without loss; differences of two networks on the same images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.paired_scores import PairedScores, paired_difference

answers = st.lists(st.booleans(), max_size=70)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def by_hand(both: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """Return mean and standard error of the images' differences, counted one by one, two more being supposed."""
    differences = [int(one) - int(other) for one, other in both]
    supposed = [*differences, 1, -1]
    return statistics.mean(differences), statistics.stdev(supposed) / math.sqrt(len(supposed))


def packed(both: Sequence[tuple[bool, bool]]) -> tuple[PairedScores, PairedScores]:
    return PairedScores.pack([one for one, _ in both]), PairedScores.pack([other for _, other in both])


def mcnemar(one_alone: int, other_alone: int) -> float:
    """Return the exact two-sided probability that a fair coin falls as unevenly (McNemar 1947, as a sign test)."""
    count, few = one_alone + other_alone, min(one_alone, other_alone)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(few + 1)) / 2**count)


@given(answers)
def test_what_is_packed_is_unpacked(right: list[bool]) -> None:
    hits = PairedScores.pack(right)
    assert hits.unpack().tolist() == right
    assert hits.count == len(right)
    assert PairedScores(hits.text) == hits
    assert hits.text.isascii()


def test_ten_thousand_images_are_less_than_two_kilobytes() -> None:
    assert len(PairedScores.pack([True, False] * 5000).text) < 2000


@given(pairs)
def test_the_paired_difference_is_what_counting_by_hand_gives(both: list[tuple[bool, bool]]) -> None:
    assert paired_difference(*packed(both)) == pytest.approx(by_hand(both))


@given(pairs)
def test_swapping_networks_turns_the_sign(both: list[tuple[bool, bool]]) -> None:
    one, other = packed(both)
    gain, error = paired_difference(one, other)
    assert paired_difference(other, one) == (pytest.approx(-gain), pytest.approx(error))
    assert error > 0


def test_networks_that_err_together_are_told_apart_better_than_strangers() -> None:
    together = packed([(True, True)] * 80 + [(True, False)] * 8 + [(False, False)] * 12)
    apart = packed([(True, True)] * 70 + [(True, False)] * 18 + [(False, True)] * 10 + [(False, False)] * 2)
    (gain, sharp), (same_gain, blunt) = paired_difference(*together), paired_difference(*apart)
    assert (gain, same_gain) == (pytest.approx(0.08), pytest.approx(0.08))
    assert sharp < 0.7 * blunt


@pytest.mark.parametrize("one_alone", range(13))
@pytest.mark.parametrize("other_alone", range(6))
def test_few_images_are_not_called_significant_where_the_exact_test_does_not(one_alone: int, other_alone: int) -> None:
    same = [(True, True)] * (359 - one_alone - other_alone)
    gain, error = paired_difference(*packed([*same, *[(True, False)] * one_alone, *[(False, True)] * other_alone]))
    is_told = abs(gain) > 1.96 * error
    assert not is_told or mcnemar(one_alone, other_alone) < 0.075  # near 5 %, on either side
    assert is_told or mcnemar(one_alone, other_alone) > 0.025


@pytest.mark.parametrize(("one", "other"), [([True], [True, False]), ([], [])])
def test_other_images_cannot_be_compared(one: list[bool], other: list[bool]) -> None:
    with pytest.raises(ValueError, match="only the same of the same examples"):
        paired_difference(PairedScores.pack(one), PairedScores.pack(other))


@pytest.mark.parametrize(
    ("text", "said"),
    [("oA==", "begin with the number"), ("-3:oA==", "begin with"), ("3:?", "not base64"), ("9:oA==", "hold 1 bytes")],
)
def test_damaged_text_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PairedScores(text).unpack()
