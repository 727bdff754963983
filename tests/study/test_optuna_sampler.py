"""Samplers: the contract that every name in SAMPLERS keeps."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import optuna
import pytest
from study_fakes import OBJECTIVES, fake_outcome, make_proposals

from autoprune.core.proposal import Proposal
from autoprune.core.trial import Candidate, Completed, Failed, Trial
from autoprune.errors import UnknownNameError
from autoprune.search.proposals.proposer import Proposals
from autoprune.study import trial_format as records
from autoprune.study.optuna_sampler import SAMPLERS, OptunaDraw, distributions, make_sampler, proposal_seed
from autoprune.study.policy_params import dimensions, params_of, policy_of
from autoprune.study.trial_format import NewTrial

WIDTHS = (8, 12, 16, 24, 32, 48)
Params = dict[str, float | str]


@cache
def history(count: int, seed: int = 0, by: str = "random") -> tuple[optuna.trial.FrozenTrial, ...]:
    """Return stored trials: projected policies of a sampler, with outcomes of every kind."""
    proposals = make_proposals(WIDTHS, sampler=by, seed=seed)
    study = new_study()
    for number in range(count):
        found = drawn(proposals, study, number, ())
        candidate = Candidate(number, found.policy, 0, "sampler:random")
        state, values = records.told_as(fake_outcome(proposals, candidate), OBJECTIVES)
        study.tell(number, values, state=state)
    return tuple(study.get_trials())


def drawn(proposals: Proposals, study: optuna.Study, number: int, trials: Sequence[Trial]) -> Proposal:
    """Propose as the ledger asks, and store the parameters of what is proposed."""
    space = proposals.space
    study_id = study._storage.get_study_id_from_name(study.study_name)
    draw = OptunaDraw(study, study._storage, study_id, distributions(space))
    found = proposals.propose(number, trials, draw)
    assert draw.place is not None
    new = NewTrial(params_of(space, found.policy), distributions(space), {})
    for name, value in new.internal_values().items():
        study._storage.set_trial_param(draw.place.trial_id, name, value, distributions(space)[name])
    return found


def new_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=records.directions(OBJECTIVES))


def propose(proposals: Proposals, number: int, past: tuple[optuna.trial.FrozenTrial, ...]) -> tuple[Params, Params]:
    """Return the parameters that were stored, and those of the policy that would be built."""
    study = new_study()
    study.add_trials(past)
    found = drawn(proposals, study, number, ())
    assert (found.origin, found.budget) == (f"sampler:{proposals.sampler}", proposals.budget)
    assert found.counts == proposals.space.counts(found.policy)
    return study.trials[-1].params, params_of(proposals.space, proposals.space.canonical(found.policy))


@pytest.fixture(autouse=True)
def same_global_randomness() -> None:
    random.seed(0)
    np.random.seed(0)


@cache
def first_proposal(name: str, past: int) -> tuple[Params, Params]:
    """Return what :func:`propose` does with seed 3; cached, because fitting a Gaussian process takes seconds."""
    return propose(make_proposals(WIDTHS, sampler=name, seed=3), past, history(past))


@pytest.mark.parametrize("past", [0, 5, 25])
@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    def test_proposes_every_parameter_as_the_policy_on_the_budget(self, name: str, past: int) -> None:
        proposals = make_proposals(WIDTHS, sampler=name, seed=3)
        stored, built = first_proposal(name, past)
        assert stored == built
        assert list(stored) == [d.name for d in dimensions(proposals.space)]
        kept = proposals.space.counts(policy_of(proposals.space, stored))
        assert proposals.budget.admits(proposals.cost.measure(kept))

    def test_is_a_function_of_seed_number_and_history(self, name: str, past: int) -> None:
        first, _ = first_proposal(name, past)
        random.seed(99)
        np.random.seed(99)
        again, _ = propose(make_proposals(WIDTHS, sampler=name, seed=3), past, history(past))
        assert again == first


# a fitted Gaussian process may insist on one optimum whatever the number is, until it is told how that ended
@pytest.mark.parametrize(
    ("name", "past"), [(name, past) for name in SAMPLERS for past in (0, 5, 25) if (name, past) != ("gp", 25)]
)
def test_proposals_differ_by_number_and_by_seed(name: str, past: int) -> None:
    found = [first_proposal(name, past)[0]]
    found.append(propose(make_proposals(WIDTHS, sampler=name, seed=3), past + 1, history(past))[0])
    found.append(propose(make_proposals(WIDTHS, sampler=name, seed=4), past, history(past))[0])
    assert len({tuple(sorted(params.items())) for params in found}) == 3


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2"])
def test_a_sampler_that_learns_depends_on_the_history(name: str) -> None:
    """Told that the best were the worst, it proposes something else. NSGA-II learns from its own generations only."""
    past = history(40, by="nsga2") if name == "nsga2" else history(25)
    proposals = make_proposals(WIDTHS, sampler=name, seed=3)
    one = propose(proposals, 40, past)[0] if name == "nsga2" else first_proposal(name, 25)[0]
    opposite = tuple(
        optuna.trial.create_trial(
            state=trial.state,
            values=None if trial.values is None else [1 - trial.values[0], trial.values[1]],
            params=trial.params,
            distributions=trial.distributions,
            system_attrs=trial.system_attrs,
        )
        for trial in past
    )
    assert propose(proposals, len(past), opposite)[0] != one


def test_random_does_not_depend_on_the_history() -> None:
    proposals = make_proposals(WIDTHS, sampler="random")
    assert propose(proposals, 25, history(25))[0] == propose(proposals, 25, ())[0]


def test_tpe_prefers_what_did_well() -> None:
    """The fake accuracy rises with the first group's kept channels, so TPE should keep more of them than chance."""
    learned, chance = make_proposals(WIDTHS, sampler="tpe"), make_proposals(WIDTHS, sampler="random")
    past = history(60, seed=1)
    completed = sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in past)
    assert completed > 30
    by_tpe = [propose(learned, n, past)[0]["g0.sparsity"] for n in range(60, 75)]
    by_chance = [propose(chance, n, past)[0]["g0.sparsity"] for n in range(60, 75)]
    assert np.mean(np.array(by_tpe, float)) < np.mean(np.array(by_chance, float))


@pytest.mark.parametrize("name", SAMPLERS)
def test_making_a_sampler_warns_nobody(name: str) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        make_sampler(name, 0)
    assert not seen


def test_an_unknown_sampler_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'nsga2'") as caught:
        make_sampler("nsga3", 0)
    assert all(name in str(caught.value) for name in SAMPLERS)


def test_proposal_seeds_do_not_repeat_within_or_between_studies() -> None:
    seeds = {proposal_seed(study, number) for study in range(20) for number in range(200)}
    assert len(seeds) > 20 * 200 - 5  # 32 bits: a rare coincidence is no fault
    assert proposal_seed(3, 4) == proposal_seed(3, 4)
    assert proposal_seed(3, 4) != proposal_seed(4, 3)


def test_distributions_are_the_dimensions_of_the_space() -> None:
    proposals = make_proposals(WIDTHS)
    found = distributions(proposals.space)
    assert list(found) == [d.name for d in dimensions(proposals.space)]
    assert found["g0.importance"].choices == ("l1", "l2")  # type: ignore[attr-defined]
    assert (found["g0.sparsity"].low, found["g0.sparsity"].high) == (0, 1 - 1 / 8)  # type: ignore[attr-defined]


def test_every_kind_of_outcome_is_in_the_history() -> None:
    """Guard of the contract above: samplers must cope with all of them."""
    states = {trial.state for trial in history(25)}
    assert states == {optuna.trial.TrialState[name] for name in ("COMPLETE", "PRUNED", "FAIL")}
    proposals = make_proposals(WIDTHS)
    first = Candidate(0, policy_of(proposals.space, history(1)[0].params), 0, "")
    assert isinstance(fake_outcome(proposals, first), Completed)


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_a_policy_that_was_evaluated_is_not_proposed_again(name: str) -> None:
    """Evaluations repeat bit for bit, so a repeated policy would be a wasted trial."""
    proposals = make_proposals(WIDTHS, sampler=name, seed=3)
    past = history(25)
    first = policy_of(proposals.space, propose(proposals, 25, past)[0])
    trials = [Trial(Candidate(25, first, 0, "sampler:x", proposals.budget), Failed("", ""), {}, 0)]
    study = new_study()
    study.add_trials(past)
    again = drawn(replace(proposals, with_baselines=False), study, 25, trials).policy
    assert again != first
    assert proposals.budget.admits(proposals.cost.measure(proposals.space.counts(again)))


def test_a_space_with_one_policy_left_proposes_it_again() -> None:
    proposals = make_proposals((4,), sampler="random", seed=0)
    everything = [policy_of(proposals.space, propose(proposals, n, ())[0]) for n in range(40)]
    trials = [Trial(Candidate(n, p, 0, "sampler:x"), Failed("", ""), {}, 0) for n, p in enumerate(everything)]
    again = drawn(replace(proposals, with_baselines=False), new_study(), 99, trials)
    assert again.policy in everything
