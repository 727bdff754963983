"""Successive halving, with numbers in the place of networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from autoprune.analysis.successive_halving import halve, rungs


@dataclass(frozen=True)
class Runner:
    """Hold losses at every rung, as drawn, and the parts that were run."""

    losses: tuple[float, ...]
    parts: tuple[tuple[float, float], ...] = ()


def race(runners: list[Runner], rescued: list[Runner] | None = None) -> list[Runner]:
    return halve(
        runners,
        lambda runner, first, last: replace(runner, parts=(*runner.parts, (first, last))),
        lambda runner: runner.losses[len(runner.parts) - 1],
        [].append if rescued is None else rescued.append,
    )


@given(st.integers(1, 100))
def test_each_rung_has_half_the_contenders_and_twice_the_training_of_the_one_before(count: int) -> None:
    found = rungs(count)
    assert (found[0].contenders, found[-1].contenders, found[-1].share) == (count, 1, 1.0)
    for before, after in pairwise(found):
        assert before.contenders <= 2 * after.contenders < before.contenders + 2
        assert after.share == 2 * before.share


@given(st.lists(st.tuples(*[st.integers(0, 3).map(float)] * 4), min_size=1, max_size=8))
def test_the_better_half_goes_on(losses: list[tuple[float, ...]]) -> None:
    runners = [Runner(one) for one in losses]
    ended, borders = race(runners), rungs(len(runners))
    assert sorted(one.losses for one in ended) == sorted(one.losses for one in runners)
    for place, rung in enumerate(borders):
        assert sum(len(one.parts) > place for one in ended) == rung.contenders
        if place + 1 < len(borders):
            here = [one for one in ended if len(one.parts) > place]
            stays = [one.losses[place] for one in here if len(one.parts) > place + 1]
            goes = [one.losses[place] for one in here if len(one.parts) == place + 1]
            assert max(stays) <= min(goes, default=4.0)
    whole = (0.0, *(rung.share for rung in borders))
    assert ended[0].parts == tuple(pairwise(whole)), "the winner misses no part"
    assert [len(one.parts) for one in ended] == sorted((len(one.parts) for one in ended), reverse=True)


def test_at_equal_loss_the_more_promising_goes_on() -> None:
    assert halve([0, 1, 2], lambda number, first, last: number, lambda number: 1.0) == [0, 1, 2]


BROKEN = math.inf


def test_if_the_last_one_breaks_the_one_left_behind_last_goes_on_in_the_same_parts() -> None:
    rescued: list[Runner] = []
    last, second, third = Runner((1.0, 1.0, BROKEN)), Runner((2.0, 2.0, 5.0)), Runner((3.0,))
    ended = race([last, second, third], rescued)
    assert [one.losses for one in ended] == [second.losses, third.losses, last.losses]
    assert ended[0].parts == ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))
    assert [one.losses for one in rescued] == [second.losses]


def test_if_that_one_breaks_too_the_next_one_does_from_where_it_was() -> None:
    first, second, third = Runner((1.0, 1.0, BROKEN)), Runner((2.0, 2.0, BROKEN)), Runner((3.0, 2.0, 1.0))
    ended = race([first, second, third])
    assert ended[0].losses == third.losses
    assert ended[0].parts == ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))
    assert {one.losses for one in ended[1:]} == {first.losses, second.losses}


def test_a_contender_that_broke_is_never_rescued() -> None:
    rescued: list[Runner] = []
    ended = race([Runner((BROKEN,) * 3), Runner((BROKEN,) * 3), Runner((BROKEN,))], rescued)
    assert rescued == []
    assert len(ended) == 3
