"""Successive halving: several contenders begin a long training, and the better half of them goes on, until one is left.

Nothing here knows what is trained. The rungs lie at shares 1, 1/2, 1/4, … of the training, counted from its end, so
every halving of the contenders comes at twice the training of the one before, and the last one runs the second half
alone. Combined with ``pick``, which trains networks by it.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016,
arXiv:1502.07943, section 3 (Successive Halving); halves are rounded up here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Rung:
    """Say how many contenders train up to which share of the whole training, in (0, 1]."""

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
    contenders: Sequence[_T], advance: Callable[[_T, float, float], _T], loss_of: Callable[[_T], float]
) -> list[_T]:
    """Return all contenders as they were left: the winner first, then from the last left behind to the first.

    Args:
        contenders: the most promising first; at equal loss the earlier one goes on.
        advance: (contender, share it has trained to, share it shall train to) → the contender as it is then.
        loss_of: how bad a contender is; may be infinite.
    """
    running, left, trained = list(contenders), list[_T](), 0.0
    for rung in rungs(len(contenders)):
        running, left = running[: rung.contenders], running[rung.contenders :] + left
        running = sorted((advance(one, trained, rung.share) for one in running), key=loss_of)
        trained = rung.share
    return running + left
