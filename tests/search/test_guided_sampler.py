"""The guided sampler: on the budget, never the same twice, a function of what is stored, and better with evidence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fakes import chain_cost, make_proposals, measured_many, open_ledger, space_of

from autoprune.core.budget import Budget
from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.sensitivity import Curve, Sensitivity
from autoprune.core.space import MaskSpace, SearchSpace
from autoprune.core.trial import Candidate, Completed, Failed, Trial
from autoprune.errors import UsageError
from autoprune.search.proposals.budget_projection import FILL_TO, Projector
from autoprune.search.proposals.elites import Elites
from autoprune.search.proposals.proposer import Proposals

WIDTHS = (16, 32, 24, 48, 16)
TRUE_WEIGHTS = np.array([3.0, 0.3, 1.0, 0.3, 2.0])


def guided(share: float = 0.5, seed: int = 0, measured: bool = True, with_baselines: bool = False) -> Proposals:
    proposals = make_proposals(WIDTHS, sampler="guided", share=share, seed=seed, with_baselines=with_baselines)
    curves = {name: Curve(n, {n // 2: 0.1, n // 4: 0.5}) for name, n in proposals.space.full.channels.items()}
    return replace(proposals, sensitivity=Sensitivity(curves if measured else {}))


def true_loss(proposals: Proposals, policy: PruningPolicy) -> float:
    """Return a loss in which groups hurt by weights that the measured curves do not tell."""
    kept, full = proposals.space.counts(policy).channels, proposals.space.full.channels
    cut = np.array([1 - kept[name] / full[name] for name in full])
    return float(np.exp(-1 + (TRUE_WEIGHTS[: len(cut)] * cut**2).sum()))


def no_draw(name: str, seed: int) -> dict[str, float | str]:
    raise AssertionError("the guided sampler draws nothing from Optuna's")


def told(proposals: Proposals, count: int, worst: bool = False, shift: float = 0.0) -> list[Trial]:
    """Return the trials of a search; ``worst`` hands it the opposite of the truth, ``shift`` is added to every loss."""
    trials: list[Trial] = []
    for number in range(count):
        found = proposals.propose(number, trials, no_draw)
        policy = found.policy
        loss = true_loss(proposals, policy)
        assert found.counts == proposals.space.counts(policy)
        exact = proposals.cost.measure(found.counts)
        measured = exact.merged(
            Measurement({"accuracy": 1 / (1 + loss), "loss": shift + (1 / loss if worst else loss)})
        )
        candidate = Candidate(number, policy, 0, found.origin, found.budget)
        trials.append(Trial(candidate, Completed(measured), {}, 0))
    return trials


@pytest.mark.parametrize("measured", [True, False], ids=["measured", "skipped"])
def test_every_proposal_lies_on_its_budget_and_is_new(measured: bool) -> None:
    proposals = guided(measured=measured)
    trials = told(proposals, 40)
    for trial in trials:
        usage = Projector(proposals.space, proposals.cost, trial.candidate.budget).usage(
            proposals.space.counts(trial.candidate.policy)
        )
        assert FILL_TO <= usage <= 1
    assert len({trial.candidate.policy.to_json() for trial in trials}) == 40
    ways = {trial.candidate.origin for trial in trials}
    assert ways == {"guided:drawn", "guided:mutated", "guided:crossed", "guided:lower"}


def test_lower_budgets_are_marked_as_such() -> None:
    proposals = guided()
    for trial in told(proposals, 40):
        limit = trial.candidate.budget.limits["mflops"].value
        if trial.candidate.origin == "guided:lower":
            assert limit < proposals.budget.limits["mflops"].value
        else:
            assert trial.candidate.budget == proposals.budget


def test_it_finds_better_than_the_knapsack_where_the_curves_are_wrong() -> None:
    proposals = guided(with_baselines=True)
    trials = told(proposals, 60)
    on_budget = {
        t.candidate.origin: true_loss(proposals, t.candidate.policy) for t in trials if t.candidate.is_baseline
    }
    searched = [
        true_loss(proposals, t.candidate.policy)
        for t in trials
        if not t.candidate.is_baseline and t.candidate.budget == proposals.budget
    ]
    assert "baseline:knapsack" in on_budget
    assert min(searched) < 0.97 * min(on_budget.values())
    assert np.median(searched[-10:]) < np.median(searched[:10]), "it comes to propose better ones"


@pytest.mark.parametrize("shift", [0.0, -10.0], ids=["positive losses", "negative losses"])
def test_it_depends_on_what_it_was_told(shift: float) -> None:
    proposals = guided()
    one, other = told(proposals, 12, shift=shift), told(proposals, 12, worst=True, shift=shift)
    assert [t.candidate.policy for t in one] != [t.candidate.policy for t in other]


def test_it_is_a_function_of_seed_number_and_trials() -> None:
    first, again = told(guided(), 15), told(guided(), 15)
    assert [t.candidate for t in first] == [t.candidate for t in again]
    assert [t.candidate.policy for t in first] != [t.candidate.policy for t in told(guided(seed=1), 15)]


def test_without_a_budget_it_explores_all_of_them() -> None:
    proposals = replace(guided(), budget=Budget())
    costs = [t.outcome.measurement["mflops"] for t in told(proposals, 30) if isinstance(t.outcome, Completed)]
    dense = proposals.cost.measure(proposals.space.full)["mflops"]
    assert min(costs) < 0.3 * dense
    assert max(costs) > 0.7 * dense


def test_one_group_only_and_a_budget_near_the_floor() -> None:
    proposals = make_proposals((16,), sampler="guided", share=0.5)
    assert told(proposals, 3)
    space = space_of((8, 8))
    cost = chain_cost(space)
    least = cost.measure(space.smallest)["mflops"]
    near = replace(make_proposals((8, 8), sampler="guided"), budget=Budget.parse({"mflops": 1.02 * least}))
    for trial in told(near, 3):
        assert near.budget.admits(near.cost.measure(near.space.counts(trial.candidate.policy)))


class BlockCount:
    """Cost a network its blocks, and one that always stays."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        return Measurement({"mflops": 6.0 - len(counts.dropped_blocks)})

    def measure_many(self, names: Any, numbers: Any) -> dict[str, Any]:
        return measured_many(self.measure, names, numbers)


def test_blocks_alone_are_searched_where_no_channel_can_go() -> None:
    space = SearchSpace((), {}, blocks=tuple(Block(f"b{place}") for place in range(5)))
    dense = Measurement({"mflops": 6.0, "accuracy": 0.9})
    proposals = Proposals(space, BlockCount(), dense, Budget.parse({"mflops": 4}), sampler="guided")
    trials = told(proposals, 12)
    assert all(len(trial.candidate.policy.dropped_blocks) >= 2 for trial in trials)
    assert len({trial.candidate.policy for trial in trials}) >= 10
    assert {"baseline:depth", "guided:drawn", "guided:mutated"} <= {trial.candidate.origin for trial in trials}


class BlockAndChannels(BlockCount):
    """Cost a network its channels, and its one block as much as ten of them."""

    def measure(self, counts: ChannelCounts) -> Measurement:
        return Measurement({"mflops": float(sum(counts.channels.values()) + 10 * (1 - len(counts.dropped_blocks)))})


@pytest.mark.parametrize("with_baselines", [False, True])
def test_a_block_goes_only_where_what_is_left_can_fill_the_budget(with_baselines: bool) -> None:
    """The block hardly matters, so every draw would drop it; all channels together then use 84 % of the budget."""
    space = replace(space_of((16, 16), importances=("l1",)), blocks=(Block("b"),))
    curves = {"g0": Curve(16, {8: 0.5}), "g1": Curve(16, {8: 0.5}), "b": Curve(1, {0: 1e-4})}
    dense = Measurement({"mflops": 42.0, "accuracy": 0.9})
    proposals = Proposals(space, BlockAndChannels(), dense, Budget.parse({"mflops": 38}), sampler="guided")
    proposals = replace(proposals, sensitivity=Sensitivity(curves), with_baselines=with_baselines)
    trials = told(proposals, 8)
    for trial in trials:
        if trial.candidate.origin not in ("baseline:depth", "guided:lower"):  # blocks alone; a limit between two steps
            used = proposals.cost.measure(space.counts(trial.candidate.policy))["mflops"]
            assert FILL_TO <= used / trial.candidate.budget.limits["mflops"].value <= 1
    assert any(trial.candidate.is_baseline for trial in trials) == with_baselines


def test_a_space_of_one_group_is_searched_below_its_budget_before_anything_is_repeated() -> None:
    """At half of the cost 8 of 16 channels stay; half of that, the usual range of lower budgets, ends at 4."""
    trials = told(make_proposals((16,), sampler="guided", share=0.5), 30)
    kept = [round(16 * (1 - trial.candidate.policy.groups["g0"].sparsity)) for trial in trials]
    assert max(kept) == 8
    assert min(kept) == 2
    assert len({trial.candidate.policy for trial in trials}) >= 13


def test_masks_alone_are_refused_with_the_sampler_that_takes_them() -> None:
    space = SearchSpace((), {}, mask=MaskSpace("weight", ("magnitude",), ("conv",)))
    dense = Measurement({"mflops": 7.0, "accuracy": 0.9})
    with pytest.raises(UsageError, match="--sampler tpe"):
        Proposals(space, BlockCount(), dense, Budget(), sampler="guided").check()


def test_a_criterion_of_a_group_that_stays_whole_makes_no_other_network() -> None:
    proposals = guided()
    kept = proposals.space.full.with_channels({"g1": 8})
    one, other, third = (
        proposals.space.policy(kept, {**dict.fromkeys(kept.channels, "l1"), "g0": whole, "g1": cut})
        for whole, cut in (("l1", "l1"), ("l2", "l1"), ("l1", "l2"))
    )
    elites = Elites(
        proposals.space, list(kept.channels), [np.zeros(len(c)) for c in proposals.space.channel_choices.values()]
    )
    elites.read([Trial(Candidate(0, one, 0, "guided:drawn"), Failed("E", ""), {}, 0)])
    assert elites.holds(kept, other)
    assert not elites.holds(kept, third)


def test_a_stored_study_asks_the_same_after_a_kill(tmp_path: Path) -> None:
    """What is asked is stored at once, with its own budget, and asked again by the next process."""
    proposals = guided()
    with open_ledger(tmp_path) as ledger:
        asked = ledger.ask(proposals, 0)
    with open_ledger(tmp_path) as ledger:
        assert ledger.reclaimed == 1
        assert ledger.ask(proposals, 0) == asked


def test_it_goes_on_from_thousands_of_trials() -> None:
    proposals = guided()
    few = told(proposals, 20)
    many = [replace(few[n % 20], candidate=replace(few[n % 20].candidate, number=n)) for n in range(5000)]
    assert proposals.propose(5000, many, no_draw).policy not in {trial.candidate.policy for trial in few}


@pytest.mark.parametrize("seed", range(3))
def test_what_workers_tell_in_any_order_teaches_what_a_fresh_sampler_learns(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many workers end their trials in any order; none of it may hang on which were known when."""
    monkeypatch.setattr("autoprune.search.proposals.elites._UNSURE", 4)  # so that others come into it
    long_lived, rng = guided(seed=seed), np.random.default_rng(seed)
    placed: list[int] = []
    inner = Elites._placed

    def counted(elites: Elites, candidate: Candidate) -> Any:
        placed.append(candidate.number)
        return inner(elites, candidate)

    trials, pending = list[Trial](), list[Candidate]()
    for number in range(40):
        found = long_lived.propose(number, trials, no_draw, pending)
        assert found == guided(seed=seed).propose(number, trials, no_draw, pending)
        pending.append(Candidate(number, found.policy, 0, found.origin, found.budget))
        if len(pending) > 5:
            ended = pending.pop(int(rng.integers(len(pending))))
            loss = true_loss(long_lived, ended.policy)
            exact = long_lived.cost.measure(long_lived.space.counts(ended.policy))
            outcome = Completed(exact.merged(Measurement({"accuracy": 1 / (1 + loss), "loss": loss})))
            trials = sorted([*trials, Trial(ended, outcome, {}, 0)], key=lambda trial: trial.number)
    long_lived.learn(trials)
    monkeypatch.setattr(Elites, "_placed", counted)
    long_lived.learn(trials)
    assert placed == [], "each is taken in once"
    changed = [*trials[:2], replace(trials[2], outcome=Failed("E", "m")), *trials[3:]]
    assert long_lived.propose(99, changed, no_draw) == guided(seed=seed).propose(99, changed, no_draw)
    assert sorted(set(placed)) == [trial.number for trial in trials], "another history is begun anew"
    assert long_lived.propose(98, trials[1:], no_draw) == guided(seed=seed).propose(98, trials[1:], no_draw)


def test_what_is_learnt_beforehand_changes_no_proposal() -> None:
    trials = told(guided(), 12)
    prepared = guided()
    prepared.learn(trials)
    assert prepared.propose(12, trials, no_draw) == guided().propose(12, trials, no_draw)
    make_proposals(sampler="random").learn(trials)  # which learns nothing
