"""Spaces, costs and outcomes that need no network, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.budget import Budget
from autoprune.core.channel_groups import PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, OverBudget, Stopped
from autoprune.search.proposals.proposer import Proposals
from autoprune.study.ledger import Ledger
from autoprune.study.storage_url import sqlite_url

OBJECTIVES = ("accuracy", "mflops")


@dataclass(frozen=True)
class ChainCost:
    """Cost a chain of layers: each costs its own channels times those of the layer before it.

    ``positions`` are per layer; ``constant`` MFLOPs belong to no group.
    """

    positions: Mapping[str, int]
    constant: float = 0.0

    def measure(self, counts: ChannelCounts) -> Measurement:
        pairs, before, kept = {}, 3, counts.channels
        for name in self.positions:
            pairs[name], before = before * kept[name], kept[name]
        mflops = sum(self.positions[name] * pair for name, pair in pairs.items()) / 1e3 + self.constant
        mparams = sum(pairs.values()) / 1e3
        return Measurement({"mflops": mflops, "mparams": mparams, "size_mb": 4 * mparams})

    def measure_many(self, names: Sequence[str], numbers: Any) -> dict[str, Any]:
        return measured_many(self.measure, names, numbers)


def counts_of(numbers: Mapping[str, int]) -> ChannelCounts:
    """Return counts from one mapping, in which the names of blocks begin with b."""
    dropped = frozenset(name for name, number in numbers.items() if name.startswith("b") and not number)
    return ChannelCounts({name: number for name, number in numbers.items() if not name.startswith("b")}, dropped)


def measured_many(
    measure: Callable[[ChannelCounts], Measurement], names: Sequence[str], numbers: Any
) -> dict[str, Any]:
    """Return what ``CostModel.measure_many`` does, one policy at a time."""
    found = [measure(counts_of(dict(zip(names, row, strict=True)))).values for row in numbers.tolist()]
    return {name: np.array([each[name] for each in found]) for name in found[0]} if found else {}


def space_of(
    widths: Sequence[int],
    importances: Sequence[str] = ("l1", "l2"),
    residual: Sequence[int] = (),
    max_sparsity: float = 0.9,
    round_to: int = 1,
) -> SearchSpace:
    """Return a space whose groups ``g0``, ``g1`` … have these numbers of channels."""
    groups = tuple(PruningGroup(f"g{i}", width, (), is_residual=i in residual) for i, width in enumerate(widths))
    return SearchSpace(groups, {group.name: tuple(importances) for group in groups}, max_sparsity, round_to)


def chain_cost(space: SearchSpace, positions: Sequence[int] | None = None, constant: float = 0.0) -> ChainCost:
    given = positions or [64 >> (i // 2) for i in range(len(space.groups))]
    return ChainCost({group.name: max(1, p) for group, p in zip(space.groups, given, strict=True)}, constant)


def full_cost(space: SearchSpace, cost: ChainCost) -> Measurement:
    return cost.measure(space.full)


def smallest_cost(space: SearchSpace, cost: ChainCost) -> Measurement:
    return cost.measure(space.smallest)


def make_proposals(
    widths: Sequence[int] = (8, 12, 16),
    *,
    sampler: str = "random",
    seed: int = 0,
    share: float = 0.5,
    with_baselines: bool = False,
    residual: Sequence[int] = (),
) -> Proposals:
    """Return proposals on a budget of ``share`` of the dense MFLOPs."""
    space = space_of(widths, residual=residual)
    cost = chain_cost(space)
    dense = full_cost(space, cost).merged(Measurement({"accuracy": 0.9, "latency_ms": 2.0}))
    budget = Budget.parse({"mflops": share * dense["mflops"]})
    scores = {
        name: {g.name: np.random.RandomState(k).rand(g.num_channels) for g in space.groups}
        for k, name in enumerate(("l1", "l2"))
    }
    return Proposals(space, cost, dense, budget, scores, sampler, seed, with_baselines)


def fake_outcome(proposals: Proposals, candidate: Candidate) -> Outcome:
    """Return an outcome that is a function of the policy alone; most complete, one in each of the other ways."""
    exact = proposals.cost.measure(proposals.space.counts(candidate.policy))
    match candidate.number % 8:
        case 5:
            return OverBudget(exact, {"mflops": 0.25})
        case 6:
            return Stopped("far below its peers", exact)
        case 7:
            return Failed("ModelError", "made up", "a trace")
    ratios = [1 - group.sparsity for group in candidate.policy.groups.values()]
    favoured = sum(group.importance == "l2" for group in candidate.policy.groups.values())
    accuracy = 0.5 + 0.3 * ratios[0] + 0.1 * ratios[-1] + 0.01 * favoured
    return Completed(exact.merged(Measurement({"accuracy": accuracy}, {"accuracy": 0.01})))


def open_ledger(folder: Path, storage: str | None = None) -> Ledger:
    return Ledger(storage or sqlite_url(folder / "study.db"), "fake", OBJECTIVES, folder / "study.lock")


def run(ledger: Ledger, proposals: Proposals, total: int) -> Iterator[Candidate]:
    """Ask, evaluate and tell until the study holds ``total`` trials; yield each candidate once it is told."""
    while len(ledger.trials) < total:
        candidate = ledger.ask(proposals, proposals.seed)
        ledger.tell(candidate, fake_outcome(proposals, candidate), {"score": 0.1})
        yield candidate
