"""Successive halving: several contenders begin a long training, and the better half of them goes on, until one is left.

Nothing here knows what is trained. The rungs lie at shares 1, 1/2, 1/4, … of the training, counted from its end, so
every halving of the contenders comes at twice the training of the one before, and the last one runs the second half
alone. Combined with ``pick``, which trains networks by it.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016,
arXiv:1502.07943, section 3 (Successive Halving); halves are rounded up here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Rung:
    """How many contenders train up to which share of the whole training, in (0, 1]."""

    contenders: int
    share: float


def rungs(contenders: int) -> tuple[Rung, ...]:
    """Return the rungs for a number of contenders, at least 1; one contender has one rung, the end.

    >>> [[(rung.contenders, rung.share) for rung in rungs(count)] for count in (1, 3, 4)]
    [[(1, 1.0)], [(3, 0.25), (2, 0.5), (1, 1.0)], [(4, 0.25), (2, 0.5), (1, 1.0)]]
    """
    running = [contenders]
    while running[-1] > 1:
        running.append(-(-running[-1] // 2))
    return tuple(Rung(count, 0.5 ** (len(running) - 1 - place)) for place, count in enumerate(running))


def halve(
    contenders: Sequence[_T],
    advance: Callable[[_T, float, float], _T],
    loss_of: Callable[[_T], float],
    on_rescue: Callable[[_T], None] = lambda one: None,
    advance_all: Callable[[Sequence[_T], float, float], Sequence[_T]] | None = None,
) -> list[_T]:
    """Return all contenders as they were left: the winner first, then from the last left behind to the first.

    If nobody comes to the end with a finite loss, the one left behind last goes on to it after all, in the same parts
    as the others; then the one before it, and so on. Who broke at the last rung is last in the result.

    Args:
        contenders: the most promising first; at equal loss the earlier one goes on.
        advance: (contender, share it has trained to, share to train it to) → the contender as it is then.
        loss_of: how bad a contender is; infinite if it broke, and then it is not trained further.
        on_rescue: called with a contender that goes on after all.
        advance_all: (contenders, share they have trained to, share to train them to) → what ``advance`` returns of
            each, in their order; ``None`` to advance one after the other.
    """

    def one_by_one(some: Sequence[_T], first: float, last: float) -> Sequence[_T]:
        return [advance(one, first, last) for one in some]

    course = rungs(len(contenders))
    running, left, trained = list(contenders), list[tuple[_T, int]](), 0.0
    for place, rung in enumerate(course):
        running, behind = running[: rung.contenders], running[rung.contenders :]
        left = [(one, place) for one in behind] + left
        running = sorted((advance_all or one_by_one)(running, trained, rung.share), key=loss_of)
        trained = rung.share
    shares = (0.0, *(rung.share for rung in course))
    for place, (one, passed) in enumerate(left):
        if math.isfinite(loss_of(running[0])):
            break
        if not math.isfinite(loss_of(one)):
            continue
        on_rescue(one)
        for first, last in pairwise(shares[passed:]):
            one = advance(one, first, last)
        left[place] = one, len(course)
        if math.isfinite(loss_of(one)):
            return [one, *(other for other, _ in left[:place] + left[place + 1 :]), *running]
    return running + [one for one, _ in left]
