"""Which weights are worth keeping, and that collecting leaves exactly those on disk, whatever happens on the way."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.analysis.pareto import front
from autoprune.analysis.weight_retention import BEST, retained_trials
from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, Trial
from autoprune.search.trial_weights import TrialWeights, number_of, stored_numbers
from autoprune.study.folder import StudyFolder

OBJECTIVES = ("accuracy", "mflops")
HALF, THIRD = Budget({"mflops": Limit(50.0)}), Budget({"mflops": Limit(33.0)})


def trial(
    number: int, accuracy: float, mflops: float, origin: str = "sampler:test", budget: Budget = HALF, loss: float = 1.0
) -> Trial:
    measured = Measurement({"accuracy": accuracy, "mflops": mflops, "loss": loss}, {"accuracy": 0.01, "loss": 0.0})
    return told(number, Completed(measured), origin, budget)


def told(number: int, outcome: Outcome, origin: str = "sampler:test", budget: Budget = HALF) -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, origin, budget), outcome, {}, 0)


def test_the_front_the_three_best_of_each_budget_and_the_present_baselines_are_kept() -> None:
    trials = [
        trial(0, 0.50, 50.0, "baseline:uniform"),
        trial(1, 0.40, 33.0, "baseline:uniform", THIRD),
        trial(2, 0.90, 49.9, loss=0.3),
        trial(3, 0.80, 49.8, loss=0.5),
        trial(4, 0.70, 49.7, loss=0.6),
        trial(5, 0.60, 49.6, loss=0.7),
        trial(6, 0.70, 32.0, loss=0.6),  # on the front, and the best of a third
        trial(7, 0.60, 32.9, loss=0.7),
        trial(8, 0.50, 32.8, loss=0.8),
        trial(9, 0.45, 32.7, loss=0.9),
        told(10, Failed("E", "m")),
    ]
    assert [one.number for one in front(trials, OBJECTIVES)] == [2, 6]
    best_of_half, best_of_third = {2, 3, 4}, {6, 7, 8}
    assert len(best_of_half) == len(best_of_third) == BEST
    assert retained_trials(trials, OBJECTIVES, HALF, ACCURACY) == {0} | best_of_half | best_of_third
    assert retained_trials(trials, OBJECTIVES, THIRD, ACCURACY) == {1} | best_of_half | best_of_third
    assert retained_trials([], OBJECTIVES, HALF, ACCURACY) == set()


def test_a_budget_that_nobody_meets_and_no_budget_at_all() -> None:
    few = [trial(number, 0.5 + number / 10, 40.0, budget=Budget()) for number in range(4)]
    assert retained_trials(few, OBJECTIVES, Budget({"mflops": Limit(1.0)}), ACCURACY) == {3}
    assert retained_trials(few, OBJECTIVES, Budget(), ACCURACY) == {1, 2, 3}


def test_nothing_is_removed_where_no_trial_is_stored_as_with_another_storage(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.weights.mkdir()
    folder.trial_weights(3).write_bytes(b"weights")
    keeper = TrialWeights(folder, "front", OBJECTIVES, HALF, lambda message: None)
    keeper.begin([])
    assert stored_numbers(folder) == [3]
    keeper.begin([trial(0, 0.5, 50.0)])
    assert stored_numbers(folder) == []


outcomes = st.one_of(
    st.tuples(st.integers(0, 20), st.sampled_from([20.0, 32.0, 33.0, 45.0, 50.0]), st.integers(1, 9)),
    st.just("failed"),
)
origins = st.sampled_from(["sampler:test", "sampler:test", "baseline:uniform", "guided:lower"])
events = st.lists(st.tuples(outcomes, origins, st.sampled_from(["goes on", "goes on", "killed", "other budget"])))


@settings(max_examples=60)
@given(events)
def test_the_files_on_disk_are_what_the_rule_says_after_every_trial(happens: list[tuple[object, str, str]]) -> None:
    """The oracle keeps a set: what is written comes in, what the rule does not name goes."""
    with tempfile.TemporaryDirectory() as place:
        folder, budget = StudyFolder(Path(place)), HALF
        folder.weights.mkdir()
        bystander = folder.weights / "notes.txt"
        bystander.write_text("mine")
        keeper = TrialWeights(folder, "front", OBJECTIVES, budget, lambda message: None)
        trials, expected = list[Trial](), set[int]()
        for number, (result, origin, then) in enumerate(happens):
            if then == "other budget":
                budget = THIRD if budget == HALF else HALF
                keeper = TrialWeights(folder, "front", OBJECTIVES, budget, lambda message: None)
                keeper.begin(trials)
                expected &= retained_trials(trials, OBJECTIVES, budget, ACCURACY)
            if isinstance(result, tuple):
                accuracy, mflops, loss = result
                trials.append(trial(number, accuracy / 20, mflops, origin, budget, loss / 10))
                folder.trial_weights(number).write_bytes(b"weights")
                expected.add(number)
            else:
                trials.append(told(number, Failed("E", "m"), origin, budget))
            if then == "killed":  # before it was told, or before anything was removed, or in the midst of a write
                folder.trial_weights(number + 1).write_bytes(b"of a trial that is not stored")
                (folder.weights / f".{number + 1}.safetensors.99.tmp").write_bytes(b"half")
                keeper.begin(trials)
            else:
                keeper.remove_obsolete(trials)
            expected &= retained_trials(trials, OBJECTIVES, budget, ACCURACY)
            assert set(stored_numbers(folder)) == expected
            assert [path.name for path in folder.weights.iterdir() if number_of(path) is None] == [bystander.name]
            assert len(expected) <= len(front(trials, OBJECTIVES)) + 2 * BEST + sum(
                one.candidate.is_baseline for one in trials
            )
