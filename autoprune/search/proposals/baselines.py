"""The policies every paper compares with; a study evaluates them first.

- ``uniform``: the same sparsity in every group.
- ``inner``: only channels inside a residual branch; the residual streams stay whole.
- ``global``: all channels of the network ranked together, the lowest removed.
- ``depth``: whole residual blocks, evenly spread, and nothing else. Only if blocks may be dropped.
- ``isomorphic``: the same share of every kind of group, ranked together within a kind.
- ``knapsack``: the counts at which the measured rises of the loss add up to least. Only with measured sensitivity.
- ``threshold``: every group as far as the measured error allows, brought to the budget. Only with ``--max-drop``.

Each but ``depth`` lies on the budget like any other proposal. One that cannot reach the budget, or that is the same
as an earlier one (a network without residual streams has no separate ``inner``), is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.core.counts import ChannelCounts
from autoprune.core.policy import PruningPolicy
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.errors import BudgetError
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.knapsack import Knapsack, rises_of
from autoprune.search.proposals.wished_counts import WishedCounts

Ranking = Mapping[str, NDArray[np.float64]]
RankedBy = tuple[str, Ranking]

MAGNITUDES = ("l2", "l1", "fpgm")
_STEPS = 200  # from nothing removed to everything
COMPARABLE_BETWEEN_LAYERS = ("fisher", "taylor")  # scores that estimate a change of the loss need no scaling per layer


def baselines(
    projector: Projector,
    scores: Mapping[str, Ranking],
    tolerated: Mapping[str, int] | None = None,
    sensitivity: Sensitivity | None = None,
) -> dict[str, PruningPolicy]:
    """Return name → policy, in the order they are evaluated.

    Args:
        projector: the space and the budget.
        scores: criterion → group name → scores of shape ``(num_channels,)``, larger = keep.
        tolerated: group → fewest channels that the measured error allows; ``None`` or empty if not measured.
        sensitivity: measured curves; ``None`` or without any if not measured.
    """
    return dict(further_baselines({}, projector, scores, tolerated, sensitivity))


def further_baselines(
    known: Mapping[str, PruningPolicy],
    projector: Projector,
    scores: Mapping[str, Ranking],
    tolerated: Mapping[str, int] | None = None,
    sensitivity: Sensitivity | None = None,
) -> Iterator[tuple[str, PruningPolicy]]:
    """Yield what :func:`baselines` returns, less what is known: each is computed only when it is needed.

    Args:
        known: name → policy of baselines that were evaluated; one that is the same as one of them is left out.
        projector: as for :func:`baselines`.
        scores: as for :func:`baselines`.
        tolerated: as for :func:`baselines`.
        sensitivity: as for :func:`baselines`.
    """
    if not projector.budget.limits:
        return
    makers: dict[str, Callable[[], PruningPolicy]] = {
        "uniform": lambda: _uniform(projector, projector.space.first_importances),
        "inner": lambda: _inner(projector, projector.space.first_importances),
        "global": lambda: _global(projector, scores),
        "isomorphic": lambda: _isomorphic(projector, scores),
        "knapsack": lambda: _knapsack(projector, projector.space.first_importances, sensitivity or Sensitivity()),
        "depth": lambda: _depth(projector, projector.space.first_importances),
        "threshold": lambda: _threshold(projector, projector.space.first_importances, tolerated or {}),
    }
    seen = list(known.values())
    for name in (name for name in makers if name not in known):
        try:
            policy = makers[name]()
        except BudgetError:
            continue  # cannot reach the budget at all, so it is nothing to compare with
        if policy not in seen:
            seen.append(policy)
            yield name, policy


def _uniform(projector: Projector, importances: Mapping[str, str]) -> PruningPolicy:
    full = projector.space.full
    half = WishedCounts(
        {name: count / 2 for name, count in full.channels.items()},
        mask_units={layer: units / 2 for layer, units in full.mask_units.items()},
    )
    return projector.space.policy(projector.fit(half), importances)


def _inner(projector: Projector, importances: Mapping[str, str]) -> PruningPolicy:
    inner = frozenset(group.name for group in projector.space.groups if not group.is_residual)
    if not inner or len(inner) == len(projector.space.groups):
        raise BudgetError("the network has no residual streams to leave whole")
    wanted = {g.name: g.num_channels / (2 if g.name in inner else 1) for g in projector.space.groups}
    return projector.space.policy(projector.fit(WishedCounts(wanted), inner), importances)


def _depth(projector: Projector, importances: Mapping[str, str]) -> PruningPolicy:
    """Drop blocks, evenly spread over the network, until the budget is met by as few as possible."""
    space, names = projector.space, [block.name for block in projector.space.blocks]
    for count in range(1, len(names) + 1):
        dropped = frozenset(names[int((place + 0.5) * len(names) / count)] for place in range(count))
        counts = space.normalized(ChannelCounts(dropped_blocks=dropped))
        if projector.usage(counts) <= 1:
            return space.policy(counts, importances)  # as near to the budget as whole blocks come
    raise BudgetError("dropping blocks alone cannot meet the budget")


def _knapsack(projector: Projector, importances: Mapping[str, str], sensitivity: Sensitivity) -> PruningPolicy:
    if not sensitivity.curves:
        raise BudgetError("the sensitivity of the groups was not measured")
    space = projector.space
    counts = Knapsack(projector).solve({name: rises_of(sensitivity, space, name) for name in space.cut_names})
    return projector.project(space.policy(counts, importances))  # puts blocks back if the rest cannot fill it


def _threshold(projector: Projector, importances: Mapping[str, str], tolerated: Mapping[str, int]) -> PruningPolicy:
    if not tolerated:
        raise BudgetError("the error that each group tolerates was not measured")
    return projector.space.policy(projector.fit(WishedCounts(tolerated)), importances)


def _global(projector: Projector, scores: Mapping[str, Ranking]) -> PruningPolicy:
    """Remove the channels that score lowest in the whole network until the budget is met.

    Source: Theis et al. 2018 (Fisher scores), Molchanov et al. 2019, section 3.2 (Taylor scores). Other criteria are
    divided by their mean over the group first, as in Torch-Pruning (Fang et al. 2023).
    """
    space = projector.space
    if not space.groups:
        raise BudgetError("there are no channels to rank")
    name, ranking = _rank_by(space, scores)
    everything = sorted(value for values in ranking.values() for value in values)

    def kept_above(index: int) -> ChannelCounts:
        threshold = everything[index]
        channels = {n: space.nearest(n, max(1, int((values > threshold).sum()))) for n, values in ranking.items()}
        return space.full.with_channels(channels)

    low, high = 0, len(everything) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if projector.usage(kept_above(middle)) <= 1 else (middle + 1, high)
    return space.policy(projector.fit(WishedCounts.of(kept_above(low))), dict.fromkeys(ranking, name))


def _isomorphic(projector: Projector, scores: Mapping[str, Ranking]) -> PruningPolicy:
    """Remove the same share of each kind of group, the lowest of a kind together, until the budget is met.

    Groups are of a kind if their channels are produced and read by equally many layers. Scores are squared, and
    divided by the mean over what is left of the group, step by step. Losing its lowest raises a group's mean, so groups
    that begin to lose go on, and others of their kind stay nearly whole; in one step the widths come out more even.

    Source: Fang et al. 2024, "Isomorphic Pruning for Vision Models", arXiv:2407.04616, section 3.2, with kinds told by
    this count instead of by the graph; iterated as in Fang et al. 2023, arXiv:2301.12900.
    """
    space = projector.space
    name = next((known for known in MAGNITUDES if len(scores.get(known, {})) == len(space.groups)), None)
    if name is None or not space.groups:
        raise BudgetError("no magnitude scores every group, so there is no isomorphic ranking")
    left = {group: np.square(values) for group, values in scores[name].items()}
    kinds: dict[object, list[str]] = {}
    for group in space.groups:
        sides = Counter(member.side for member in group.members)
        kinds.setdefault((group.is_residual, *sorted(sides.items())), []).append(group.name)
    counts = space.full
    for step in range(1, _STEPS + 1):
        for members in kinds.values():
            goal = round(sum(space.full.channels[group] for group in members) * (1 - step / _STEPS))
            left |= _without_lowest({group: left[group] for group in members}, goal)
        counts = counts.with_channels({group: space.nearest(group, len(values)) for group, values in left.items()})
        if projector.usage(counts) <= 1:
            break
    return space.policy(projector.fit(WishedCounts.of(counts)), dict.fromkeys(left, name))


def _without_lowest(scores: Ranking, goal: int) -> dict[str, NDArray[np.float64]]:
    """Return the scores of the channels that are left once only ``goal`` are, or one for each group if that is more."""
    relative = {group: values / (values.mean() or 1.0) for group, values in scores.items()}
    for values in relative.values():
        values[values.argmax()] = np.inf  # no group goes whole
    everything = np.concatenate(list(relative.values()))
    gone = min(len(everything) - goal, len(everything) - len(scores))
    if gone < 1:
        return dict(scores)
    lowest = np.argsort(everything, kind="stable")[:gone]
    stays = np.ones(len(everything), dtype=bool)
    stays[lowest] = False
    borders = np.cumsum([len(values) for values in scores.values()])[:-1]
    return {group: scores[group][mask] for group, mask in zip(scores, np.split(stays, borders), strict=True)}


def _rank_by(space: SearchSpace, scores: Mapping[str, Ranking]) -> RankedBy:
    """Return the criterion that can rank the whole network, and its scores made comparable between groups."""
    complete = [name for name in scores if name != "random" and len(scores[name]) == len(space.groups)]
    for name in COMPARABLE_BETWEEN_LAYERS:
        if name in complete:
            return name, scores[name]
    if not complete:
        raise BudgetError("no criterion scores every group, so there is no global ranking")
    name = complete[0]
    return name, {group: values / (abs(values).mean() or 1.0) for group, values in scores[name].items()}
