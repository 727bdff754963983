"""Pruning in stages: how much is cut at each stage, and which training steps follow it.

A one-shot candidate has one stage. With n stages, a part is cut and the network fine-tuned, n times over. The channels
kept at a stage are among those kept at the one before, so each cut is given by :func:`relative` indices.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.training.loop import Span


def share_cut(stage: int, stages: int) -> float:
    """Return the share of everything that will go which is gone after stage 1 … ``stages``.

    s_k = s_f · (1 − (1 − k / n)³): much goes while there is much to spare, little at the end.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878, eq. 1, with s_i = 0 and steps k / n.

    >>> [round(share_cut(stage, 3), 3) for stage in (1, 2, 3)]
    [0.704, 0.963, 1.0]
    """
    return 1 - (1 - stage / stages) ** 3


def steps_of(stage: int, stages: int, total: int) -> Span:
    """Return the steps of stage 1 … ``stages``: all ``total`` ones shared out evenly, in order, none left over.

    >>> [steps_of(stage, 3, 10) for stage in (1, 2, 3)]
    [Span(first=0, last=3), Span(first=3, last=6), Span(first=6, last=10)]
    """
    return Span(total * (stage - 1) // stages, total * stage // stages)


def part_of(span: Span, first: float, last: float) -> Span:
    """Return the steps of a span between two shares of it, rounded down: parts that meet in a share miss no step.

    Args:
        span: the whole.
        first: share in [0, 1] at which the part begins.
        last: share in [``first``, 1] at which it ends.

    >>> [part_of(Span(10, 21), *part) for part in ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0))]
    [Span(first=10, last=12), Span(first=12, last=15), Span(first=15, last=21)]
    """
    steps = span.last - span.first
    return Span(span.first + int(first * steps), span.first + int(last * steps))


def relative(kept: Sequence[int], within: Sequence[int]) -> tuple[int, ...]:
    """Return where the indices of ``kept`` stand in ``within``, of which they are a part.

    Args:
        kept: indices into the whole, ascending.
        within: indices into the whole that are left, ascending.

    Raises:
        ValueError: if an index is kept that is gone already.

    >>> relative((1, 5), within=(1, 3, 5, 7))
    (0, 2)
    """
    place = {index: position for position, index in enumerate(within)}
    lost = [index for index in kept if index not in place]
    if lost:
        raise ValueError(f"index {lost[0]} is kept at a later stage and was cut at an earlier one")
    return tuple(place[index] for index in kept)
