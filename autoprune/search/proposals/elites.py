"""What the guided sampler remembers of a study's trials, so that an ask costs the same at ten trials and at thousands.

Each trial is worked out once, and a candidate when it is first heard of, though many workers end their trials in any
order. Handed another history, it begins anew.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np

from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Trial, completed_measurement
from autoprune.search.proposals.loss_model import Evidence

MOST_TRIALS = 300  # that are learnt from: the latest; more would only cost time
_UNSURE = 1000  # of the latest trials, among which others still come: as many workers as there can be
FULL_USE = 0.95  # of a budget; what uses less was made for a lower one
_LEAST_LOSS = 1e-6  # a perfect network's loss has no logarithm


class PolicyPlaces(NamedTuple):
    """Where a policy's counts are among the choices, and its criteria among all of them, for each group or block."""

    kept: Ints
    criteria: Ints

    @property
    def key(self) -> bytes:
        """Return what only policies of equal networks have in common."""
        return self.kept.tobytes() + self.criteria.tobytes()


class _Row(NamedTuple):
    """A completed trial: its number, where its policy is, and its loss."""

    number: int
    places: PolicyPlaces
    loss: float


class _Met(NamedTuple):
    """A completed trial that meets a budget: its loss, its number, its latency, and whether it uses the budget up."""

    loss: float
    number: int
    latency_ms: float
    uses_up: bool

    @classmethod
    def of(cls, trial: Trial, measured: Measurement, budget: Budget) -> _Met:
        values = measured.values
        latency_ms = values.get("latency_ms", math.inf)
        return cls(values.get("loss", math.inf), trial.number, latency_ms, _uses_up(measured, budget))


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
        self._places: dict[int, tuple[Candidate, PolicyPlaces]] = {}  # by number
        self._begin()

    def _begin(self) -> None:
        self._last_read: list[Trial] = []
        self._trials: dict[int, Trial] = {}  # by number, in the order in which they became known
        self._keys: set[bytes] = set()
        self._rows: list[_Row] = []  # by number
        self._met: dict[str, list[_Met]] = {}  # by budget, the lowest loss first
        self._ranked: dict[str, int] = {}
        self._pending: list[PolicyPlaces] = []

    def read(self, trials: Sequence[Trial]) -> None:
        """Take in what was added since the last call."""
        unchanged = max(0, len(self._last_read) - _UNSURE)
        if self._last_read[:unchanged] != trials[:unchanged]:  # mostly the same objects, so this takes no time
            unchanged = 0
        known, self._last_read = self._trials, list(trials)
        news = [one for one in trials[unchanged:] if (seen := known.get(one.number)) is not one and seen != one]
        if len(known) + len(news) != len(trials):
            self._begin()
            news = self._last_read = list(trials)
        for trial in news:
            places = self._placed(trial.candidate)
            self._trials[trial.number] = trial
            self._keys.add(places.key)
            measured = completed_measurement(trial)
            if measured is not None and "loss" in measured.values and not trial.candidate.is_picked:
                insort(self._rows, _Row(trial.number, places, measured["loss"]), key=lambda row: row.number)

    def expect(self, pending: Sequence[Candidate]) -> None:
        """Take in what is being evaluated now, in the place of what was before."""
        self._pending = [self._placed(one) for one in pending]

    def holds(self, counts: ChannelCounts, policy: PruningPolicy) -> bool:
        """Return whether a policy of these counts was evaluated, or is now: it would only score the same."""
        key = self.places(counts, policy).key
        return key in self._keys or any(key == places.key for places in self._pending)

    def _placed(self, candidate: Candidate) -> PolicyPlaces:
        """Return where a candidate is, worked out only once, as it is pending first and told later."""
        seen, places = self._places.get(candidate.number, (None, None))
        if places is None or seen is not candidate:
            places = self.places(self.space.counts(candidate.policy), candidate.policy)
            self._places[candidate.number] = candidate, places
        return places

    def places(self, counts: ChannelCounts, policy: PruningPolicy) -> PolicyPlaces:
        """Return where a policy is.

        Where nothing is cut there is nothing for a criterion to choose, and its place is 0: equal networks are equal.
        """
        numbers, order, groups = self.space.cut_numbers(counts), self._order, policy.groups
        kept, criteria = [], []
        for name, place_of in self._place_of.items():
            place, group = place_of[numbers[name]], groups.get(name)
            kept.append(place)
            criteria.append(order.get(group.importance, 0) if group and place < len(place_of) - 1 else 0)
        return PolicyPlaces(np.array(kept, dtype=np.int64), np.array(criteria, dtype=np.int64))

    @cached_property
    def _order(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.criteria)}

    @cached_property
    def _place_of(self) -> dict[str, dict[int, int]]:
        """Return group or block → number that stays → its place among the choices."""
        return {name: {n: i for i, n in enumerate(self.space.cut_choices[name])} for name in self.names}

    def evidence(self) -> Evidence:
        """Return what the latest completed trials say, each pending one standing at their mean log-loss.

        So long as it is not known how good a pending candidate is, others like it are no more promising than the rest.

        Source: Ginsbourger, Le Riche and Carraro, "Kriging is well-suited to parallelize optimization" (2010), section
        3.2 (constant liar).
        """
        rows, shape = self._rows[-MOST_TRIALS:], (-1, len(self.names))
        losses, found = _logs([row.loss for row in rows]), [row.places for row in rows]
        if rows and self._pending:
            found += self._pending
            losses = np.append(losses, np.full(len(self._pending), losses.mean()))
        kept = np.array([places.kept for places in found], dtype=np.int64).reshape(shape)
        return Evidence(
            self._table[np.arange(len(self.names)), kept],
            np.array([places.criteria for places in found], dtype=np.int64).reshape(shape),
            losses,
            max(1, len(self.criteria)),  # without groups there is none, and blocks have no use for one
        )

    @property
    def has_logarithms(self) -> bool:
        """Return whether no trial's loss is negative, so that evidence is in logarithms."""
        return all(row.loss >= 0 for row in self._rows)

    def elites(self, budget: Budget, count: int, longest_ms: float = math.inf) -> list[PruningPolicy]:
        """Return the best few policies that use up a budget, by validation loss.

        Args:
            budget: absolute limits.
            count: how many.
            longest_ms: with a limit on the measured latency, the policies need not use up the budget, only meet it.
        """
        key = str(budget.to_json())
        met = self._met.setdefault(key, [])
        for trial in islice(self._trials.values(), self._ranked.get(key, 0), None):
            measured = completed_measurement(trial)
            if measured is not None and budget.admits(measured) and not trial.candidate.is_picked:
                insort(met, _Met.of(trial, measured, budget))
        self._ranked[key] = len(self._trials)
        is_limited = longest_ms < math.inf
        wanted = (one for one in met if (one.latency_ms <= longest_ms if is_limited else one.uses_up))
        return [self._trials[one.number].candidate.policy for one in islice(wanted, count)]


def _logs(losses: Sequence[float]) -> Floats:
    """Return log-losses; where some are negative, which have no logarithm, the losses in their standard deviations."""
    if min(losses, default=0.0) < 0:
        return np.asarray(np.array(losses) / max(float(np.std(losses)), _LEAST_LOSS))
    return np.array([math.log(max(loss, _LEAST_LOSS)) for loss in losses])


def _uses_up(measured: Measurement, budget: Budget) -> bool:
    """Return whether a network that meets a budget nearly fills its exact limits."""
    limits = {name: limit for name, limit in budget.limits.items() if METRICS[name].closed_form}
    return max((measured[name] / limit.value for name, limit in limits.items()), default=1.0) > FULL_USE
