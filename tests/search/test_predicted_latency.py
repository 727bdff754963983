"""Predicted latency: the model learns what is true, and proposals come to lie on a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fakes import ChainCost, chain_cost, counts_of, full_cost, make_proposals, open_ledger, space_of

from autoprune.core.arrays import Floats, Ints
from autoprune.core.budget import Budget, Limit
from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.core.policy import PruningPolicy
from autoprune.core.proposal import Proposal
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.search.proposals import baselines
from autoprune.search.proposals.budget_projection import FILL_TO
from autoprune.search.proposals.latency_model import (
    AIM,
    LatencyModel,
    LatencyProbes,
    Timed,
    latency_projector,
    leave_one_out_error,
)
from autoprune.search.proposals.proposer import Proposals
from autoprune.study.policy_params import dimensions, policy_of


@dataclass(frozen=True)
class ChainWork(ChainCost):
    """Add work to the chain's costs: one network, operations, MFLOPs; blocks are single operations."""

    blocks: tuple[str, ...] = ()

    def work(self, counts: ChannelCounts) -> Floats:
        operations = len(self.positions) + 3 * (len(self.blocks) - len(counts.dropped_blocks))
        return np.array([1.0, operations, self.measure(counts)["mflops"]])

    def work_many(self, names: Sequence[str], numbers: Ints) -> Floats:
        return np.array([self.work(counts_of(dict(zip(names, row, strict=True)))) for row in numbers.tolist()])


def chain(blocks: int = 0) -> tuple[SearchSpace, ChainWork]:
    space = space_of((16, 24, 32, 32))
    names = tuple(f"b{i}" for i in range(blocks))
    space = replace(space, blocks=tuple(Block(name) for name in names))
    return space, ChainWork(chain_cost(space_of((16, 24, 32, 32))).positions, blocks=names)


def scaled(space: SearchSpace, share: float, dropped: int = 0) -> ChannelCounts:
    gone = frozenset(block.name for block in space.blocks[:dropped])
    return ChannelCounts({g.name: space.nearest(g.name, share * g.num_channels) for g in space.groups}, gone)


def law(work: Floats) -> float:
    """Return what the networks of these tests really take: no sum, so that the model is wrong by some per cent."""
    return float(0.2 + 0.05 * work[1] + 0.04 * work[2] + 0.01 * (work[1] * work[2]) ** 0.5)


def probes_of(space: SearchSpace, cost: ChainWork) -> LatencyProbes:
    networks = [scaled(space, 1.0), *(scaled(space, share, k) for share, k in ((0.7, 0), (0.4, 0), (0.2, 0)))]
    networks += [scaled(space, 1.0, k) for k in range(1, len(space.blocks) + 1)]
    return LatencyProbes(cost, tuple(Timed(kept, law(cost.work(kept))) for kept in networks))


# the model


def test_a_sum_of_what_is_done_is_recovered() -> None:
    rng = np.random.default_rng(0)
    true = np.array([0.5, 0.07, 0.02, 0.0, 3.0])
    work = np.concatenate([[[1, 60, 125, 130, 0.6]], rng.uniform(0.1, 1, (40, 5)) * [0, 60, 125, 130, 0.6]])
    work[:, 0] = 1
    model = LatencyModel.fit(work, work @ true)
    assert model.predict(work) == pytest.approx(work @ true, rel=0.02)
    assert leave_one_out_error(work, work @ true) < 0.02
    assert (model.coefficients >= 0).all()


def test_relative_errors_count_so_that_small_networks_are_predicted_as_well() -> None:
    sizes = np.array([100.0, 50, 10, 5, 1])
    work = np.stack([np.ones(5), sizes], 1)
    latency = 0.3 + 0.1 * sizes
    assert LatencyModel.fit(work, latency).predict(work) == pytest.approx(latency, rel=0.05)


def test_more_work_never_takes_less_time_whatever_the_noise() -> None:
    work = np.array([[1.0, 10.0, 5.0], [1.0, 8.0, 6.0], [1.0, 6.0, 7.0]])
    model = LatencyModel.fit(work, np.array([5.0, 9.0, 1.0]))
    assert (model.coefficients >= 0).all()
    assert model.coefficients.any()


def test_one_timed_network_gives_equal_shares_of_its_time() -> None:
    model = LatencyModel.fit(np.array([[1.0, 10.0, 0.0]]), np.array([4.0]))
    assert model.coefficients == pytest.approx([2.0, 0.2, 0.0])
    assert model.scaled(1.5).predict(np.array([1.0, 5.0, 3.0])) == pytest.approx(1.5 * 3.0)


def test_fitting_again_gives_the_same_to_the_last_bit() -> None:
    space, cost = chain(blocks=3)
    first, again = (probes_of(space, cost).model().coefficients for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert 0 < probes_of(space, cost).error < 0.1


# proposals


def trial_of(proposals: Proposals, number: int, trials: list[Trial], seed: int, factor: float = 1.0) -> Trial:
    """Project a random policy, and measure it by the law times a factor."""
    rng = np.random.default_rng([seed, number])
    params: Mapping[str, float | str] = {
        d.name: str(rng.choice(d.choices)) if d.choices else float(rng.uniform(0, d.high))
        for d in dimensions(proposals.space)
    }
    policy = proposals.projector(trials).project(policy_of(proposals.space, params))
    kept = proposals.space.counts(policy)
    assert proposals.probes is not None
    exact = proposals.cost.measure(kept)
    found = exact.merged(Measurement({"latency_ms": factor * law(proposals.probes.cost.work(kept)), "accuracy": 0.5}))
    return Trial(Candidate(number, policy, 0, "sampler:random", proposals.budget), Completed(found), {}, 0)


def latency_of(trial: Trial) -> float:
    assert isinstance(trial.outcome, Completed)
    return trial.outcome.measurement["latency_ms"]


def limited(share: float, blocks: int = 3, mflops: float | None = None) -> Proposals:
    space, cost = chain(blocks)
    probes = probes_of(space, cost)
    dense = full_cost(space, cost).merged(Measurement({"latency_ms": probes.timed[0].latency_ms, "accuracy": 0.9}))
    limits = {"latency_ms": Limit(share * dense["latency_ms"])}
    limits |= {"mflops": Limit(mflops * dense["mflops"])} if mflops else {}
    return Proposals(space, cost, dense, Budget(limits), sampler="random", with_baselines=False, probes=probes)


@pytest.mark.parametrize("mflops", [None, 0.5])
def test_proposals_are_predicted_on_the_limit_and_within_every_other(mflops: float | None) -> None:
    proposals = limited(0.6, mflops=mflops)
    projector = proposals.projector([])
    aim = projector.budget.limits["latency_ms"].value
    assert aim == pytest.approx(AIM * proposals.budget.limits["latency_ms"].value)
    dropped = set()
    for number in range(20):
        trial = trial_of(proposals, number, [], seed=0)
        kept = proposals.space.counts(trial.candidate.policy)
        assert projector.budget.admits(projector.cost.measure(kept))
        assert projector.usage(kept) >= 0.9
        dropped.add(len(trial.candidate.policy.dropped_blocks))
    assert len(dropped) > 1, "the limit is met by depth as well as by widths"


def test_trials_bring_proposals_onto_the_limit_when_the_probes_mislead() -> None:
    proposals, limit = limited(0.6), limited(0.6).budget.limits["latency_ms"].value
    trials: list[Trial] = []
    for number in range(24):  # since the probes, this machine has become slower by a fifth
        trials.append(trial_of(proposals, number, trials, seed=1, factor=1.2))
    first, last = ([latency_of(trial) / limit for trial in part] for part in (trials[:1], trials[-8:]))
    assert first[0] > 1.05
    assert max(last) <= 1
    assert np.median(last) >= 0.9
    again = [trial_of(proposals, n, trials[:n], seed=1, factor=1.2).candidate for n in (3, 23)]
    assert again == [trials[3].candidate, trials[23].candidate]


def test_a_limit_below_the_smallest_prediction_is_met_by_the_smallest_network() -> None:
    proposals = limited(0.6)
    assert proposals.probes is not None
    budget = Budget({"latency_ms": Limit(1e-3)})
    projector = latency_projector(proposals.space, budget, proposals.probes, [])
    policy = projector.project(proposals.space.policy(ChannelCounts(), dict.fromkeys(proposals.space.by_name, "l1")))
    kept = proposals.space.counts(policy)
    assert projector.usage(kept) == pytest.approx(1)
    assert kept.dropped_blocks == proposals.space.block_names


def random_draw(proposals: Proposals) -> Callable[[str, int], dict[str, float | str]]:
    """Stand for Optuna's samplers."""

    def draw(name: str, seed: int) -> dict[str, float | str]:
        rng = np.random.default_rng(seed)
        return {d.name: str(d.choices[0]) if d.choices else rng.uniform(0, d.high) for d in dimensions(proposals.space)}

    return draw


def guided_at(share: float, latency: float, count: int) -> list[Trial]:
    """Return what the guided sampler asks where every network takes the same share of the latency limit."""
    proposals = replace(limited(share), sampler="guided")
    trials: list[Trial] = []
    for number in range(count):
        found = proposals.propose(number, trials, random_draw(proposals))
        policy = found.policy
        told = {"latency_ms": latency * proposals.budget.limits["latency_ms"].value, "accuracy": 0.5, "loss": 1.0}
        measured = proposals.cost.measure(proposals.space.counts(policy)).merged(Measurement(told))
        asked = Candidate(number, policy, 0, found.origin, found.budget)
        trials.append(Trial(asked, Completed(measured), {}, 0))
    return trials


@pytest.mark.parametrize(("latency", "are_parents"), [(0.99, True), (1.01, False)])
def test_networks_measured_within_the_limit_are_parents_although_predictions_aim_below(
    latency: float, are_parents: bool
) -> None:
    assert latency > AIM
    ways = {trial.candidate.origin for trial in guided_at(0.6, latency, 25)}
    assert bool({"guided:mutated", "guided:crossed"} & ways) is are_parents


def test_no_candidate_is_made_for_a_looser_limit_than_the_one_that_was_asked() -> None:
    """The limit is below what the smallest network is predicted to take."""
    trials = guided_at(0.1, 1.5, 6)
    asked = limited(0.1).budget.limits["latency_ms"].value
    assert max(trial.candidate.budget.limits["latency_ms"].value for trial in trials) <= asked
    assert {"guided:lower", "guided:faster"} & {trial.candidate.origin for trial in trials}


@pytest.mark.parametrize("with_probes", [True, False])
def test_baselines_that_were_asked_are_not_worked_out_again(with_probes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction changes with every trial, and with it what a baseline would be; finding it takes the most time."""
    made: list[int] = []
    make = baselines._uniform

    def counted(*given: Any) -> PruningPolicy:
        made.append(1)
        return make(*given)

    monkeypatch.setattr(baselines, "_uniform", counted)
    proposals = replace(limited(0.6), with_baselines=True)
    proposals = proposals if with_probes else replace(proposals, probes=None)
    trials: list[Trial] = []
    for number in range(6):
        found = proposals.propose(number, trials, random_draw(proposals))
        trial = trial_of(limited(0.6), number, [], seed=2)
        trials.append(replace(trial, candidate=replace(trial.candidate, origin=found.origin)))
    assert [trial.candidate.origin for trial in trials].count("baseline:uniform") == 1
    assert trials[-1].candidate.origin == "sampler:random"
    assert len(made) == 1


def test_without_probes_a_line_through_mflops_is_used_as_before() -> None:
    with_line = replace(limited(0.6), probes=None)
    projector = with_line.projector([])
    assert list(projector.budget.limits) == ["mflops"]
    assert projector.budget.limits["mflops"].value == pytest.approx(0.6 * with_line.dense["mflops"])
    assert not projector.predicted


def test_probes_change_nothing_where_latency_has_no_limit() -> None:
    plain = make_proposals()
    space, cost = chain()
    assert replace(plain, probes=probes_of(space, cost)).projector([]) == plain.projector([])


def test_a_latency_limited_study_asks_for_what_its_model_predicts(tmp_path: Path) -> None:
    proposals = limited(0.7, blocks=2)
    with open_ledger(tmp_path) as ledger:
        while len(ledger.trials) < 4:
            projector = proposals.projector(ledger.trials)
            candidate = ledger.ask(proposals, 0)
            kept = proposals.space.counts(candidate.policy)
            assert 0.8 * FILL_TO <= projector.usage(kept) <= 1
            assert proposals.probes is not None
            found = {"latency_ms": law(proposals.probes.cost.work(kept)), "accuracy": 0.5}
            ledger.tell(candidate, Completed(proposals.cost.measure(kept).merged(Measurement(found))), {})
        assert isinstance(ledger.trials[0].outcome, Completed)


def test_where_latency_is_traded_half_of_the_proposals_go_for_less_of_it_by_what_was_timed() -> None:
    timed = limited(0.6)
    budget = Budget({"mflops": Limit(0.6 * timed.dense["mflops"])})
    traded = replace(timed, sampler="guided", budget=budget, probes=None, work=timed.cost, timed=timed.probes)
    assert timed.probes is not None
    model = timed.probes.model()
    found = [traded.propose(number, [], random_draw(traded)) for number in range(60)]
    latency = {way: [] for way in ("guided:faster", "guided:drawn")}
    for one in found:
        assert one.counts is not None
        if one.origin in latency:
            latency[one.origin].append(float(model.predict(timed.probes.cost.work(one.counts))))
    assert 15 <= len(latency["guided:faster"]) <= 39
    assert np.median(latency["guided:faster"]) < 0.95 * np.median(latency["guided:drawn"])
    assert all(set(one.budget.limits) == {"mflops"} for one in found), "latency is no limit that a trial is held to"


@dataclass(frozen=True)
class Traded:
    """A search with a budget in MFLOPs that trades latency, and twenty trials that take what was predicted.

    Attributes:
        proposals: of the search.
        trials: the first ``worst`` of them, the fastest, are no good.
        best_ms: what the fastest good one takes.
    """

    proposals: Proposals
    trials: list[Trial]
    best_ms: float

    def shares(self, numbers: range) -> dict[str, list[float]]:
        """Return what proposals are predicted to take, by their origins, in shares of the fastest good network's."""
        found: dict[str, list[float]] = {}
        for number in numbers:
            one = self.proposals.propose(number, self.trials, random_draw(self.proposals))
            assert set(one.budget.limits) == {"mflops"}, "latency is no limit that a trial is held to"
            found.setdefault(one.origin, []).append(predicted_ms(self.proposals, one) / self.best_ms)
        return found


def predicted_ms(proposals: Proposals, one: Proposal) -> float:
    assert proposals.timed is not None
    return float(proposals.timed.model().predict(proposals.timed.cost.work(one.counts)))


def traded(worst: int, dense_accuracy: float = 0.9) -> Traded:
    timed = limited(0.6)
    budget = Budget({"mflops": Limit(0.6 * timed.dense["mflops"])})
    search = replace(
        timed,
        dense=timed.dense.merged(Measurement({"accuracy": dense_accuracy})),
        sampler="guided",
        budget=budget,
        probes=None,
        work=timed.cost,
        timed=timed.probes,
        quality=ACCURACY,
    )
    known = [search.propose(number, [], random_draw(search)) for number in range(20)]
    known.sort(key=lambda one: predicted_ms(search, one))
    trials = list[Trial]()
    for number, one in enumerate(known):
        accuracy = 0.5 if number < worst else 0.9
        told = {"latency_ms": predicted_ms(search, one), "accuracy": accuracy, "loss": 1.0}
        measured = timed.cost.measure(one.counts).merged(Measurement(told, {"accuracy": 0.01}))
        trials.append(Trial(Candidate(number, one.policy, 0, one.origin, budget), Completed(measured), {}, 0))
    return Traded(search, trials, predicted_ms(search, known[worst]))


@pytest.mark.parametrize("worst", [2, 12])
@pytest.mark.parametrize("dense_accuracy", [0.9, 0.95])
def test_they_take_a_little_less_than_the_fastest_network_that_is_good(worst: int, dense_accuracy: float) -> None:
    shares = traded(worst, dense_accuracy).shares(range(20, 80))["guided:faster"]
    assert len(shares) > 10
    assert max(shares) <= 1
    assert np.mean([share >= 0.5 for share in shares]) > 0.6


def test_once_a_network_is_level_with_the_dense_one_nothing_much_slower_is_proposed() -> None:
    settled = traded(2).shares(range(20, 80))
    assert len(settled) == 5, "in every way that there is"
    assert max(max(shares) for shares in settled.values()) <= 1.5
    assert max(settled["guided:drawn"]) > 1, "a little slower ones may be more accurate"


def test_what_is_good_within_noise_but_not_level_does_not_bar_slower_ones_up_to_the_level_one() -> None:
    known = traded(2)
    trials = [moved(trial, 0.892 if number < 8 else 0.9) for number, trial in enumerate(known.trials)]
    level_ms = latency_of(trials[8]) / known.best_ms
    found = Traded(known.proposals, trials, known.best_ms).shares(range(20, 80))
    assert 1.5 < max(found["guided:drawn"]) <= 1.5 * level_ms


def moved(trial: Trial, accuracy: float) -> Trial:
    assert isinstance(trial.outcome, Completed)
    if trial.outcome.measurement["accuracy"] < 0.9:
        return trial
    changed = trial.outcome.measurement.merged(Measurement({"accuracy": accuracy}, {"accuracy": 0.01}))
    return replace(trial, outcome=Completed(changed))


@pytest.mark.parametrize("changed", [{"prefer": "accuracy"}, {"prefer": "size"}, {"quality": None}])
def test_slower_networks_are_proposed_where_speed_is_not_what_is_preferred(changed: dict[str, Any]) -> None:
    known = traded(2)
    found = replace(known, proposals=replace(known.proposals, **changed)).shares(range(20, 80))
    assert max(found["guided:drawn"]) > 1.5


def test_as_long_as_the_dense_network_is_better_slower_ones_are_proposed_up_to_its_own_latency() -> None:
    known = traded(2, dense_accuracy=0.907)
    longest = known.proposals.dense["latency_ms"] / known.best_ms
    assert 1.5 < max(known.shares(range(20, 80))["guided:drawn"]) <= longest


def test_a_space_without_a_network_faster_than_the_dense_one_is_searched_all_the_same() -> None:
    known = traded(2, dense_accuracy=0.907)
    proposals = known.proposals
    assert proposals.timed is not None
    slow = [Timed(one.kept, 10.0 / one.latency_ms) for one in proposals.timed.timed]  # what is cut makes it slower
    turned = replace(proposals, timed=replace(proposals.timed, timed=tuple(slow)))
    found = replace(known, proposals=turned).shares(range(20, 40))
    assert sum(map(len, found.values())) == 20
