"""What to evaluate next: first the baselines of this budget, then what the sampler proposes.

Every proposal lies on the budget. A limit on latency is met by what a model predicts of timed networks; in a study
without such probes it is turned into a limit on MFLOPs that the trials measured so far predict. The verdict is the
measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from itertools import chain

import numpy as np

from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.preference import PREFERRED, Preference
from autoprune.core.proposal import Proposal
from autoprune.core.screened import ScreenedNetwork
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Trial, completed_measurement
from autoprune.errors import UsageError
from autoprune.search.proposals.baselines import Ranking, baselines, further_baselines
from autoprune.search.proposals.budget_projection import Cost, Projector
from autoprune.search.proposals.guided_sampler import GuidedSampler
from autoprune.search.proposals.latency_aim import LatencyAim, latency_aim
from autoprune.search.proposals.latency_model import (
    LatencyModel,
    LatencyProbes,
    WorkCost,
    assumed_projector,
    latency_projector,
)
from autoprune.search.proposals.screened_pool import ScreenedPool
from autoprune.study.optuna_sampler import GUIDED, proposal_seed
from autoprune.study.policy_params import Params, dimensions, policy_of

RANDOM_DRAWS = 20  # tries at a policy that was not evaluated yet; a tiny space may have none left


@dataclass(frozen=True)
class Proposals:
    """What decides which candidates a study evaluates next.

    Attributes:
        space: what may be proposed.
        cost: closed-form costs over the space.
        dense: what was measured of the dense network.
        budget: absolute limits of this run.
        scores: criterion → group → importance scores, for the global ranking.
        sampler: name of the sampler.
        seed: the study's seed.
        tolerated: group → fewest channels that the measured error allows, for the threshold baseline.
        sensitivity: how much the loss rises when each group alone is cut, for the knapsack.
        with_baselines: whether the baselines of a budget are evaluated first.
        probes: networks timed when the study began; ``None`` if there are none: no limit is on latency, or the study is
            older.
        screened: networks that were looked at without training; without any, nothing is proposed from them.
        work: costs that also say how much there is to do, if latency is an objective; ``None`` if it is none.
        timed: networks timed for the screening, by which proposals for a lower latency are made where latency is an
            objective without a limit; ``None``: they go by assumptions.
        quality: what networks are judged by; ``None``: which of them are good is not asked.
        prefer: what decides between networks that are as good within noise.
    """

    space: SearchSpace
    cost: Cost
    dense: Measurement
    budget: Budget
    scores: Mapping[str, Ranking] = field(default_factory=dict)
    sampler: str = "auto"
    seed: int = 0
    with_baselines: bool = True
    tolerated: Mapping[str, int] = field(default_factory=dict)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    probes: LatencyProbes | None = None
    screened: tuple[ScreenedNetwork, ...] = ()
    work: WorkCost | None = None
    timed: LatencyProbes | None = None
    quality: Metric | None = None
    prefer: Preference = PREFERRED

    @property
    def chosen_sampler(self) -> str:
        """Return the sampler's name, with ``auto`` decided: guided, but TPE where masks are searched too."""
        if self.sampler != "auto":
            return self.sampler
        return "tpe" if self.space.mask else GUIDED

    @cached_property
    def _guide(self) -> GuidedSampler:
        return GuidedSampler(self.space, self.sensitivity, self.seed, self._pool)

    @cached_property
    def _pool(self) -> ScreenedPool | None:
        if not self.screened:
            return None
        return ScreenedPool(self.space, self.screened, self.dense.values.get("loss", 0.0))

    @cached_property
    def _baselines(self) -> dict[str, dict[str, PruningPolicy]]:
        """Return the baselines of each closed-form budget that was asked about, by its description."""
        return {}

    def check(self) -> None:
        """Raise if no network of the space can meet the closed-form limits, or the sampler has nothing to propose.

        Raises:
            BudgetError: naming the nearest value that can be reached.
            UsageError: if the guided sampler is asked for a space of masks alone.
        """
        if self.chosen_sampler == GUIDED and not self.space.cut_names:
            raise UsageError(
                "the sampler 'guided' proposes channels and blocks, and here only masks are searched; give --sampler "
                "tpe, or leave it to auto"
            )
        self.budget.check_reachable(Projector(self.space, self.cost, self.budget).smallest())

    def learn(self, trials: Sequence[Trial]) -> None:
        """Take in what is stored, as the first proposal would, while no other worker has to wait for it.

        Args:
            trials: every finished trial, by number.
        """
        if self.chosen_sampler == GUIDED:
            self._guide.prepare(trials, self.budget)

    def propose(
        self,
        number: int,
        trials: Sequence[Trial],
        draw: Callable[[str, int], Params],
        pending: Sequence[Candidate] = (),
    ) -> Proposal:
        """Return the proposal that becomes candidate ``number``: a baseline that is due, or what the sampler finds.

        Args:
            number: of the candidate.
            trials: every finished trial, by number.
            draw: (name, seed) → a value for every parameter, by one of Optuna's samplers.
            pending: what other workers evaluate now; it is not proposed again.
        """
        projector = self.projector(trials)
        waiting = self._waiting_baseline(projector, chain((trial.candidate for trial in trials), pending))
        if waiting is not None:
            name, policy = waiting
            return self._proposal(policy, f"baseline:{name}")
        if self.chosen_sampler == GUIDED:
            return self._guided(number, trials, projector, pending)
        params = draw(self.chosen_sampler, proposal_seed(self.seed, number))
        projected = projector.project(policy_of(self.space, params))
        seen = {each.policy for each in (*(trial.candidate for trial in trials), *pending)}
        return self._proposal(self._unseen(projected, projector, number, seen), f"sampler:{self.chosen_sampler}")

    def _proposal(self, policy: PruningPolicy, origin: str) -> Proposal:
        return Proposal(policy, self.space.counts(policy), origin, self.budget)

    def _guided(
        self, number: int, trials: Sequence[Trial], projector: Projector, pending: Sequence[Candidate]
    ) -> Proposal:
        """Return the guided sampler's proposal, the first of a few that was not evaluated before.

        One for a lower latency is made for that latency where a limit is on it. Otherwise it is for this run's budget:
        what its latency is assumed to be is no number to be held to.
        """
        aim = cache(partial(self._aim, trials))  # it looks at all trials: when it is asked for, and once
        screened = self._from_screening(number, trials, projector, pending, aim)
        if screened is not None:
            return screened
        is_limited = "latency_ms" in self.budget.limits
        is_known = self.probes is not None if is_limited else self.work is not None
        timed = cache(partial(self._timed, number, trials, aim)) if is_known else None
        known = aim() if timed is not None and not is_limited else None
        for attempt in range(RANDOM_DRAWS):
            found = self._guide.propose(number, attempt, trials, projector, self.budget, timed, pending, known)
            if not self._guide.has_seen(found):
                break
        is_lower = found.origin == "guided:lower" or (found.origin == "guided:faster" and is_limited)
        return replace(found, budget=self._within(found.budget) if is_lower else self.budget)

    def _from_screening(
        self,
        number: int,
        trials: Sequence[Trial],
        projector: Projector,
        pending: Sequence[Candidate],
        aim: Callable[[], LatencyAim | None],
    ) -> Proposal | None:
        """Return a screened network that is worth a fine-tune; ``None`` if there is none, or it is not their turn."""
        if self._pool is None:
            return None
        self._guide.learn(trials, pending)
        rng = np.random.default_rng([self.seed, number, 2])
        return self._pool.propose(rng, trials, projector, self.budget, self._guide.has_seen, aim)

    def _within(self, lower: Budget) -> Budget:
        """Return a lower budget with no limit above this run's, as a predicted one may be that no network meets.

        Where this run has no limit on latency, a predicted one is none to be held to.
        """
        known = {name: limit.value for name, limit in self.budget.limits.items()}
        limits = {name: limit.value for name, limit in lower.limits.items() if name in known or name != "latency_ms"}
        return Budget({name: Limit(min(value, known.get(name, value))) for name, value in limits.items()})

    def _unseen(
        self, proposed: PruningPolicy, projector: Projector, number: int, seen: Set[PruningPolicy]
    ) -> PruningPolicy:
        """Return the proposal, or a random one instead if it was evaluated before: it would only score the same.

        Samplers do propose a policy twice, because many wishes project to the same channel counts.
        """
        draw = np.random.default_rng([self.seed, number])
        for _ in range(RANDOM_DRAWS):
            if proposed not in seen:
                break
            params = {
                d.name: draw.choice(d.choices) if d.choices else draw.uniform(0, d.high) for d in dimensions(self.space)
            }
            proposed = projector.project(policy_of(self.space, params))
        return proposed

    def _waiting_baseline(
        self, projector: Projector, candidates: Iterable[Candidate]
    ) -> tuple[str, PruningPolicy] | None:
        """Return the first baseline of this budget that was not asked yet, or ``None``."""
        if not self.with_baselines:
            return None
        asked = {one.origin: one for one in candidates if one.is_baseline and one.budget == self.budget}
        if "latency_ms" in self.budget.limits:  # predicted anew at every ask; what was asked is not worked out again
            known = {origin.removeprefix("baseline:"): one.policy for origin, one in asked.items()}
            return next(further_baselines(known, projector, self.scores, self.tolerated, self.sensitivity), None)
        key = str(projector.budget.to_json())
        if key not in self._baselines:
            self._baselines[key] = baselines(projector, self.scores, self.tolerated, self.sensitivity)
        return next((pair for pair in self._baselines[key].items() if f"baseline:{pair[0]}" not in asked), None)

    def projector(self, trials: Sequence[Trial]) -> Projector:
        """Return what brings policies to the budget; a latency limit is met as probes and trials predict."""
        if self.probes is not None and "latency_ms" in self.budget.limits:
            return latency_projector(self.space, self.budget, self.probes, trials)
        return Projector(self.space, self.cost, self._closed_form_budget(trials))

    def _timed(self, number: int, trials: Sequence[Trial], aim: Callable[[], LatencyAim | None]) -> Projector:
        """Return a projector that limits latency too: as timed networks predict, or else as is assumed at random."""
        if "latency_ms" in self.budget.limits and self.probes is not None:
            return latency_projector(self.space, self.budget, self.probes, trials)
        if self.timed is not None:  # without the trials' latencies, which do not repeat exactly
            known = aim()
            limit = known.fastest_ms if known is not None else self.dense["latency_ms"]
            limits = {"latency_ms": Limit(limit), **self.budget.limits}
            return latency_projector(self.space, Budget(limits), self.timed, ())
        if self.work is None:
            raise ValueError("nothing says what takes time, so no latency can be limited; this is a bug in autoprune")
        return assumed_projector(self.space, self.budget, self.work, np.random.default_rng([self.seed, number, 1]))

    def _aim(self, trials: Sequence[Trial]) -> LatencyAim | None:
        """Return the fastest good network so far, if latency was learnt and there is one."""
        if self.timed is None or self.quality is None:
            return None
        return latency_aim(trials, self.budget, self.quality, self.dense, self.prefer, self._predicted)

    def _predicted(self, policy: PruningPolicy) -> float:
        """Return a latency as networks that were timed when the study began have it."""
        if self.timed is None:
            raise ValueError("no networks were timed; this is a bug in autoprune")
        return float(self._timed_model.predict(self.timed.cost.work(self.space.counts(policy))))

    @cached_property
    def _timed_model(self) -> LatencyModel:
        if self.timed is None:
            raise ValueError("no networks were timed; this is a bug in autoprune")
        return self.timed.model()

    def _closed_form_budget(self, trials: Sequence[Trial]) -> Budget:
        """Return the budget with a latency limit turned into the MFLOPs that are predicted to meet it."""
        if "latency_ms" not in self.budget.limits:
            return self.budget
        found = [m for trial in trials if (m := completed_measurement(trial)) is not None]
        mflops = predicted_mflops(self.budget.limits["latency_ms"].value, [self.dense, *found])
        smallest = Projector(self.space, self.cost, self.budget).smallest()["mflops"]
        limits = {name: limit for name, limit in self.budget.limits.items() if name != "latency_ms"}
        given = limits["mflops"].value if "mflops" in limits else self.dense["mflops"]
        limits["mflops"] = Limit(min(given, max(smallest, mflops)))
        return Budget(limits)


def predicted_mflops(latency_ms: float, measurements: Sequence[Measurement]) -> float:
    """Return the MFLOPs at which networks like those measured take ``latency_ms``.

    A least-squares line latency = a + b · MFLOPs through the measured networks; where they do not
    determine a rising line (fewer than three of them, or noise), latency is taken as proportional to
    MFLOPs, from the first measurement.

    >>> line = [Measurement({"mflops": x, "latency_ms": 1 + 0.1 * x}) for x in (100, 50, 20)]
    >>> round(predicted_mflops(5, line), 6)
    40.0
    """
    x = np.array([m["mflops"] for m in measurements])
    y = np.array([m["latency_ms"] for m in measurements])
    if len(x) >= 3 and np.ptp(x) > 0:
        slope, offset = np.polyfit(x, y, 1)
        if slope > 0 and latency_ms > offset:
            return float((latency_ms - offset) / slope)
    return float(x[0] * latency_ms / y[0])
