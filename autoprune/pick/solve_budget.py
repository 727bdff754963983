"""A network for a budget that no trial lies near: solved from what the screening of the study has seen.

The nearest screened networks are brought onto the budget, and the knapsack is solved for what all looks have taught.
Each is looked at after a closed-form refit, the best two after a whole compensation pass, beside the best screened
network that meets the budget as it is: so none is picked that is worse than its neighbour on the screened front. The
winner is scored on validation, timed, and stored as a trial of the origin ``pick``; nothing is trained.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from autoprune.analysis.foretelling import estimated_rises, screened_front
from autoprune.core.arrays import Floats
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.metrics import METRICS
from autoprune.core.notify import Notify
from autoprune.core.proposal import Proposal
from autoprune.core.screened import ScreenedNetwork, kept_of
from autoprune.core.trial import PICKED, Completed, Trial
from autoprune.errors import BudgetError, NothingFitsError
from autoprune.search.evaluation.measure_quality import quality_and_answers
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.proposals.knapsack import Knapsack, rises_of
from autoprune.search.proposals.latency_model import latency_projector
from autoprune.search.proposals.screened_pool import ScreenedPool
from autoprune.search.proposals.wished_counts import WishedCounts
from autoprune.search.screening.bulk_proposals import learnt_knapsack
from autoprune.search.screening.look import Looker
from autoprune.search.screening.prepare_screening import LATENCY, looker_of
from autoprune.search.setup.build_evaluator import build_meter, build_solved_maker
from autoprune.search.setup.from_spec import resolve
from autoprune.search.setup.latency_probes import latency_probes
from autoprune.search.setup.measure_sensitivity import measured_sensitivity
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.ledger import Ledger
from autoprune.study.named_code import check_code_is_trusted
from autoprune.study.screened_file import read_screening
from autoprune.study.view import StudyView, storage_url

NEIGHBOURS = 3  # screened networks on either side of the budget that are brought onto it
_WIDEST = 1.6  # cost / limit of a neighbour, or limit / cost
_TIMED_TRIES = 3  # at a limit on latency that was predicted to be met
_MARGIN = 0.98  # of what a limit is lowered to after a miss


def solved_trial(
    view: StudyView, budget: Budget, notify: Notify, storage: str | None = None, *, trust_code: bool = False
) -> tuple[Trial, PreparedStudy]:
    """Return a trial for exactly this budget, which is stored, and the study that was prepared for it.

    Args:
        view: the study, screened.
        budget: absolute limits, within what was screened.
        notify: called with a sentence when something begins or ends.
        storage: where the trials are; ``None`` for the study's folder.
        trust_code: whether code may be run that an imported study names; remembered.

    Raises:
        NothingFitsError: if what was solved for is slower than a limit on latency allows.
        BudgetError: if no network of the space meets the budget.
        AutopruneError: if the network cannot be cut, scored or stored.
    """
    check_code_is_trusted(view.folder, view.spec, trust_code=trust_code)
    view.folder.create()
    study = prepare_study(resolve(view.spec), view.folder, notify)
    began = time.perf_counter()
    solver = Solver(study, read_screening(view.folder.screened).networks, notify)
    proposal, outcome = solver.within(budget, view.trials)
    url = storage_url(view.folder, storage)
    with closing(Ledger(url, view.spec.name, view.spec.objectives, view.folder.lock)) as ledger:
        seconds = {"solve": time.perf_counter() - began}
        trial = ledger.add(study.space, proposal, study.spec.seed, outcome, seconds)
    notify(f"solved for {budget.describe()} in {seconds['solve']:.1f} s, stored as trial {trial.number}")
    return trial, study


@dataclass(frozen=True)
class Solver:
    """What finds and measures a network for a budget.

    Attributes:
        study: prepared.
        networks: that were looked at without training.
        notify: called with a sentence when something begins or ends.
    """

    study: PreparedStudy
    networks: tuple[ScreenedNetwork, ...]
    notify: Notify

    def within(self, budget: Budget, trials: Sequence[Trial]) -> tuple[Proposal, Completed]:
        """Return a proposal on the budget, and what was measured of it; a predicted latency is tried three times.

        Raises:
            NothingFitsError: if its latency is above the limit each time.
        """
        looker, aimed = looker_of(self.study), budget
        for _ in range(_TIMED_TRIES):
            counts = self.solve(aimed, trials, looker)
            proposal = Proposal(self.study.space.policy(counts), counts, PICKED, budget)
            outcome = self._measured(proposal)
            missed = budget.violations(outcome.measurement)
            if not missed:
                return proposal, outcome
            found = outcome.measurement
            aimed = Budget(
                {
                    name: Limit(_MARGIN * limit.value / (1 + missed[name])) if name in missed else limit
                    for name, limit in aimed.limits.items()
                }
            )
        listed = " and ".join(f"{METRICS[name].show(found[name])} {METRICS[name].unit}" for name in missed)
        raise NothingFitsError(
            f"what was solved for {budget.describe()} takes {listed} when it is timed; ask for that, or search on for "
            "what you asked"
        )

    def solve(self, budget: Budget, trials: Sequence[Trial], looker: Looker) -> ChannelCounts:
        """Return the counts within a budget that stay nearest to the dense network without training.

        Args:
            budget: absolute.
            trials: of the study, which teach what takes time.
            looker: looks at networks.

        Raises:
            BudgetError: if no network of the space meets it.
        """
        onto = self._onto(budget, trials)
        pool = ScreenedPool(self.study.space, self.networks, self.study.dense["loss"])
        usages = pool.usages(onto)
        candidates = self._candidates(onto, pool, usages)
        expected = self._expected(candidates, onto, looker)
        finalists = [candidates[int(place)] for place in np.argsort(expected, kind="stable")[:2]]
        inside = np.flatnonzero(usages <= 1)
        if len(inside):
            best = self.networks[int(inside[np.argmin(pool.rises[inside])])].counts
            finalists.append(best)
        ranked = {kept_of(one): one for one in finalists}
        rises = [(looker.compensated(one)[0], place) for place, one in enumerate(ranked.values())]
        rise, chosen = min(rises)
        self._tell_neighbours(onto, rise)
        return list(ranked.values())[chosen]

    def _candidates(self, onto: Projector, pool: ScreenedPool, usages: Floats) -> list[ChannelCounts]:
        """Return networks on the budget: neighbours brought onto it, and knapsacks."""
        space, spec = self.study.space, self.study.spec
        made = []
        for side in ((usages >= 1 / _WIDEST) & (usages <= 1), (usages > 1) & (usages <= _WIDEST)):
            near = np.flatnonzero(side)
            made += [self.networks[int(place)].counts for place in near[np.argsort(pool.rises[near])][:NEIGHBOURS]]
        sensitivity = measured_sensitivity(self.study.context, self.study.start_pruner)
        curves = [rises_of(sensitivity, space, name) for name in space.cut_names]
        made.append(Knapsack(onto).solve(dict(zip(space.cut_names, curves, strict=True))))
        made.append(learnt_knapsack(space, curves, pool, onto, np.random.default_rng(spec.seed), boldness=0.0))
        found = {}
        for one in made:
            try:
                counts = space.normalized(onto.onto_budget(WishedCounts.of(one)))
            except BudgetError:
                continue  # these blocks do not fit; the others do, or the last line says that none does
            found[kept_of(counts)] = counts
        if not found:
            onto.budget.check_reachable(onto.smallest())
        return list(found.values())

    def _expected(self, candidates: Sequence[ChannelCounts], onto: Projector, looker: Looker) -> Floats:
        """Return the rise that each candidate is expected to have after a compensation pass."""
        first = len(self.networks)
        looked = [
            ScreenedNetwork(
                first + n, PICKED, n, PICKED, one, onto.budget, onto.cost.measure(one), looker.closed_form(one)
            )
            for n, one in enumerate(candidates)
        ]
        return estimated_rises([*self.networks, *looked])[first:]

    def _onto(self, budget: Budget, trials: Sequence[Trial]) -> Projector:
        study = self.study
        if LATENCY not in budget.limits:
            return Projector(study.space, study.cost, budget)
        probes = latency_probes(study.context, study.pruner, study.cost, study.timer, study.dense[LATENCY])
        return latency_projector(study.space, budget, probes, trials)

    def _measured(self, proposal: Proposal) -> Completed:
        """Return what is measured of a network that was compensated and not trained."""
        study, watch = self.study, Stopwatch(lambda phase: None)
        maker = build_solved_maker(study)
        network = maker.pruned(proposal.policy, watch)
        quality, paired = quality_and_answers(network, study.task, study.device)
        timing = build_meter(study).time(network)
        return Completed(maker.exact(proposal.policy).merged(quality).merged(timing), paired)

    def _tell_neighbours(self, onto: Projector, rise: float) -> None:
        """Say how near the dense network it stays, between its neighbours on the screened front."""
        cost = next(iter(onto.limits))
        limit = onto.limits[cost].value
        front = screened_front(self.networks, cost)
        below = [one for one in front if one.costs[cost] <= limit][-1:]
        above = [one for one in front if one.costs[cost] > limit][:1]
        beside = "; ".join(
            f"screened network {one.number}, {METRICS[cost].show(one.costs[cost])} {METRICS[cost].unit}: "
            f"{one.closed_form if one.compensated is None else one.compensated:.4f}"
            for one in (*below, *above)
        )
        self.notify(f"without training its answers are {rise:.4f} from the dense network's ({beside})")
