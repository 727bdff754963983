"""What the guided sampler remembers of a study's trials, so that an ask costs the same at ten trials and at thousands.

Trials are only ever added, and a stored one never changes: each is worked out once. Handed another history, it begins
anew.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Trial, completed_measurement
from autoprune.search.proposals.loss_model import Evidence

MOST_TRIALS = 300  # that are learnt from: the latest; more would only cost time
FULL_USE = 0.95  # of a budget; what uses less was made for a lower one
_LEAST_LOSS = 1e-6  # a perfect network's loss has no logarithm


class Elites:
    """The trials of a study as arrays, and the best of them.

    Args:
        space: groups and blocks.
        rises: of each group or block, one value for each of its counts, in the order of ``names``.

    Attributes:
        names: groups and blocks, in the order of the space.
        criteria: every criterion that some group can be scored by, the first one first.
    """

    def __init__(self, space: SearchSpace, names: Sequence[str], rises: Sequence[Floats]) -> None:
        self.space, self.names = space, list(names)
        self.criteria = list(dict.fromkeys(c for known in space.importances.values() for c in known))
        self._table = np.zeros((len(rises), max(map(len, rises))))
        for row, values in enumerate(rises):
            self._table[row, : len(values)] = values
        self._begin()

    def _begin(self) -> None:
        self._trials: list[Trial] = []
        self._keys: set[bytes] = set()
        self._rows: list[tuple[Ints, Ints, float]] = []
        self._elites: dict[str, list[tuple[float, int, PruningPolicy]]] = {}
        self._ranked: dict[str, int] = {}
        self._pending: list[tuple[Ints, Ints]] = []

    def read(self, trials: Sequence[Trial]) -> None:
        """Take in what was added since the last call."""
        known = len(self._trials)
        if known and (
            len(trials) < known or trials[0] is not self._trials[0] or trials[known - 1] is not self._trials[-1]
        ):
            self._begin()
        for trial in trials[len(self._trials) :]:
            policy = trial.candidate.policy
            kept, criteria = self.places(self.space.counts(policy), policy)
            self._trials.append(trial)
            self._keys.add(_key(kept, criteria))
            measured = completed_measurement(trial)
            if measured is not None and "loss" in measured.values and not trial.candidate.is_picked:
                self._rows.append((kept, criteria, measured["loss"]))

    def expect(self, pending: Sequence[Candidate]) -> None:
        """Take in what is being evaluated now, in the place of what was before."""
        self._pending = [self.places(self.space.counts(one.policy), one.policy) for one in pending]

    def holds(self, counts: ChannelCounts, policy: PruningPolicy) -> bool:
        """Return whether a policy of these counts was evaluated, or is now: it would only score the same."""
        key = _key(*self.places(counts, policy))
        return key in self._keys or any(key == _key(*places) for places in self._pending)

    def places(self, counts: ChannelCounts, policy: PruningPolicy) -> tuple[Ints, Ints]:
        """Return where a policy's counts are among the choices, and its criteria among all of them.

        Where nothing is cut there is nothing for a criterion to choose, and its place is 0: equal networks are equal.
        """
        numbers, order = self.space.cut_numbers(counts), {name: place for place, name in enumerate(self.criteria)}
        places = [self.space.cut_choices[name].index(numbers[name]) for name in self.names]
        full = self.space.full.channels
        chosen = {n: group.importance for n, group in policy.groups.items() if numbers[n] != full[n]}
        criteria = [order.get(chosen[name], 0) if name in chosen else 0 for name in self.names]
        return np.array(places, dtype=np.int64), np.array(criteria, dtype=np.int64)

    def evidence(self) -> Evidence:
        """Return what the latest completed trials say, each pending one standing at their mean log-loss.

        So long as it is not known how good a pending candidate is, others like it are no more promising than the rest.

        Source: Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize optimization" (2010), section
        3.2 (constant liar).
        """
        rows, shape = self._rows[-MOST_TRIALS:], (-1, len(self.names))
        losses = _logs([row[2] for row in rows])
        if len(rows) and self._pending:
            rows = [*rows, *((kept, criteria, 0.0) for kept, criteria in self._pending)]
            losses = np.append(losses, np.full(len(self._pending), losses.mean()))
        kept = np.array([row[0] for row in rows], dtype=np.int64).reshape(shape)
        return Evidence(
            self._table[np.arange(len(self.names)), kept],
            np.array([row[1] for row in rows], dtype=np.int64).reshape(shape),
            losses,
            max(1, len(self.criteria)),  # without groups there is none, and blocks have no use for one
        )

    @property
    def has_logarithms(self) -> bool:
        """Return whether no trial's loss is negative, so that evidence is in logarithms."""
        return all(loss >= 0 for _, _, loss in self._rows)

    def elites(self, budget: Budget, count: int, longest_ms: float = math.inf) -> list[PruningPolicy]:
        """Return the best few policies that use up a budget, by validation loss.

        Args:
            budget: absolute limits.
            count: how many.
            longest_ms: with a limit on the measured latency, the policies need not use up the budget, only meet it.
        """
        if longest_ms < math.inf:
            return self._within(Budget({**budget.limits, "latency_ms": Limit(longest_ms)}), count)
        key = str(budget.to_json())
        best = self._elites.setdefault(key, [])
        for trial in self._trials[self._ranked.get(key, 0) :]:
            measured = completed_measurement(trial)
            if measured is not None and _uses_up(measured, budget) and not trial.candidate.is_picked:
                best.append((measured.values.get("loss", math.inf), trial.number, trial.candidate.policy))
        self._ranked[key] = len(self._trials)
        best.sort(key=lambda each: each[:2])
        del best[count:]
        return [policy for _, _, policy in best]

    def _within(self, budget: Budget, count: int) -> list[PruningPolicy]:
        """Return the best few policies that meet a budget, however much of it they use."""
        known = ((trial, completed_measurement(trial)) for trial in self._trials if not trial.candidate.is_picked)
        found = [(m.values.get("loss", math.inf), t.number, t) for t, m in known if m is not None and budget.admits(m)]
        return [trial.candidate.policy for _, _, trial in heapq.nsmallest(count, found, key=lambda each: each[:2])]


def _key(kept: Ints, criteria: Ints) -> bytes:
    return kept.tobytes() + criteria.tobytes()


def _logs(losses: Sequence[float]) -> Floats:
    """Return log-losses; where some are negative, which have no logarithm, the losses in their standard deviations."""
    if min(losses, default=0.0) < 0:
        return np.asarray(np.array(losses) / max(float(np.std(losses)), _LEAST_LOSS))
    return np.array([math.log(max(loss, _LEAST_LOSS)) for loss in losses])


def _uses_up(measured: Measurement, budget: Budget) -> bool:
    """Return whether a network meets a budget and nearly fills its exact limits."""
    limits = {name: limit for name, limit in budget.limits.items() if METRICS[name].closed_form}
    used = max((measured[name] / limit.value for name, limit in limits.items()), default=1.0)
    return used > FULL_USE and budget.admits(measured)
