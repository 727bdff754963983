"""Which choices of a policy go with a good network: how much of the loss each one alone explains, against chance.

A cheap look at trials that were made anyway, not an experiment: parameters that the sampler always moved together
cannot be told apart, and only main effects are seen. What cutting a group alone does is measured as sensitivity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.analysis import pareto
from autoprune.core.arrays import Floats
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Trial

FEWEST = 12  # trials below which nothing is reported
BINS = 4
SHUFFLES = 100
CRITERION = ": criterion"
_SIMILAR = 0.10  # of the budget, that trials may stay below it: what a network costs would explain all else


@dataclass(frozen=True)
class ParameterImportance:
    """How much each parameter explains of the loss.

    Attributes:
        shares: parameter → share of the variance of the loss' ranks that it alone explains, at most 1 and 0 where it
            explains no more than unrelated numbers would; the largest first.
        chance: the share that the best of as many unrelated parameters reaches in one of twenty shuffled studies.
        trials: how many completed trials were used.
        scope: which these are, in words.
    """

    shares: Mapping[str, float]
    chance: float
    trials: int
    scope: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"shares": dict(self.shares), "chance": self.chance, "trials": self.trials, "scope": self.scope}


def importance(trials: Sequence[Trial], budget: Budget, quality: Metric) -> ParameterImportance:
    """Return how much each group's sparsity and criterion, each block and the mask explain of the validation loss.

    For each parameter the trials are put into at most four bins of equal size, or one for each value it has if these
    are fewer or are criteria. The ranks of their losses are compared: (H − k + 1) / (n − k), with Kruskal and Wallis' H
    over k bins of n trials. It costs one pass over the parameters: a second for 5,000 trials of sixty.

    Args:
        trials: any trials; completed ones count that use at least 90 % of every limit that follows from the policy,
            or all of them if fewer than 12 do.
        budget: absolute limits.
        quality: what stands for the loss in trials that have none.

    Source: Kruskal and Wallis, "Use of ranks in one-criterion variance analysis", Journal of the American Statistical
    Association 47 (1952); the share, η²_H, in Tomczak and Tomczak, "The need to report effect size estimates
    revisited", Trends in Sport Sciences 21 (2014).
    """
    found, scope = _alike(pareto.measured([one for one in trials if not one.candidate.is_picked]), budget)
    columns = parameters([trial.candidate.policy for trial, _ in found])
    if len(found) < FEWEST or not columns:
        return ParameterImportance({}, 0.0, len(found), scope)
    ranks = _ranks(np.array([m.values.get("loss", quality.minimised(m[quality.name])) for _, m in found]))
    stream = np.random.default_rng(0)
    outcomes = np.stack([ranks, *(stream.permutation(ranks) for _ in range(SHUFFLES))], axis=1)
    shares = np.stack([_shares(_places(name, values), outcomes) for name, values in columns.items()])
    order = np.argsort(-shares[:, 0], kind="stable")
    names = list(columns)
    explained = {names[index]: float(max(0.0, shares[index, 0])) for index in order}
    return ParameterImportance(explained, float(np.quantile(shares[:, 1:].max(axis=0), 0.95)), len(found), scope)


def parameters(policies: Sequence[PruningPolicy]) -> dict[str, Floats]:
    """Return parameter → its value in each policy, shape ``(n,)``, without those that never vary.

    Criteria are numbered in the order of their names; a group that a policy does not name has −1.
    """
    groups = list(dict.fromkeys(name for policy in policies for name in policy.groups))
    blocks = list(dict.fromkeys(name for policy in policies for name in policy.dropped_blocks))
    masked = list(dict.fromkeys(name for p in policies if p.mask for name in p.mask.layers))
    criteria = sorted({group.importance for policy in policies for group in policy.groups.values()})
    number = {name: float(index) for index, name in enumerate(criteria)}
    found: dict[str, list[float]] = {}
    for name in groups:
        chosen = [policy.groups.get(name) for policy in policies]
        found[f"{name}: sparsity"] = [group.sparsity if group else 0.0 for group in chosen]
        found[f"{name}{CRITERION}"] = [number[group.importance] if group else -1.0 for group in chosen]
    for name in blocks:
        found[f"{name}: dropped"] = [float(name in policy.dropped_blocks) for policy in policies]
    for name in masked:
        found[f"{name}: mask"] = [policy.mask.layers.get(name, 0.0) if policy.mask else 0.0 for policy in policies]
    return {name: np.array(values) for name, values in found.items() if len(set(values)) > 1}


def bins(values: Floats) -> NDArray[np.int64]:
    """Return the bin of each value, from 0: one for each distinct value if there are at most four, else quarters.

    >>> bins(np.array([0.0, 0.5, 0.0])).tolist(), bins(np.arange(8.0)).tolist()
    ([0, 1, 0], [0, 0, 1, 1, 2, 2, 3, 3])
    """
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) <= BINS:
        return place.astype(np.int64)
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS, method="higher"))
    _, place = np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)
    return place.astype(np.int64)


def _places(name: str, values: Floats) -> NDArray[np.int64]:
    """Return bins; criteria have no order, so each is a bin of its own."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64) if name.endswith(CRITERION) else bins(values)


def _alike(found: list[tuple[Trial, Measurement]], budget: Budget) -> tuple[list[tuple[Trial, Measurement]], str]:
    """Return the trials that cost about as much as the budget allows, or all, and which in words."""
    name = next((name for name in ("mflops", "mparams", "size_mb") if name in budget.limits), None)
    if name is not None:
        limit = budget.limits[name].value
        near = [(trial, m) for trial, m in found if (1 - _SIMILAR) * limit <= m[name] <= (1 + 1e-9) * limit]
        if len(near) >= FEWEST:
            return near, f"completed trials that use 90–100 % of {Budget({name: budget.limits[name]}).describe()}"
    return found, "completed trials of any cost"


def _shares(place: NDArray[np.int64], outcomes: Floats) -> Floats:
    """Return the share that bins explain of each column's variance of ranks, shape ``(columns,)``; may be below 0."""
    count, columns = outcomes.shape
    sizes = np.bincount(place).astype(np.float64)
    if len(sizes) >= count:
        return np.zeros(columns)
    member = np.zeros((len(sizes), count))
    member[place, np.arange(count)] = 1.0
    means = (member @ outcomes) / sizes[:, None]
    between = (sizes[:, None] * (means - outcomes.mean(axis=0)) ** 2).sum(axis=0)
    variance = outcomes.var(axis=0, ddof=1)
    h = between / np.where(variance > 0, variance, np.inf)
    return np.asarray((h - len(sizes) + 1) / (count - len(sizes)), dtype=np.float64)


def _ranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place], dtype=np.float64)
