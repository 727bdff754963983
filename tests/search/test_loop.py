"""The loop: ask, evaluate, tell, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from autoprune.analysis.early_stopping import EarlyStopper
from autoprune.analysis.failures import SURE
from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, Trial
from autoprune.errors import EvaluationError, LeaseLostError, StudyError
from autoprune.search import loop
from autoprune.search.evaluation.evaluator import Evaluation
from autoprune.search.loop import FAILURES_IN_A_ROW, WAITING, search

GOOD = Completed(Measurement({"accuracy": 0.9, "mflops": 1.0}))
BAD = Failed("ModelError", "the forward pass fails", "Traceback of number ")


@dataclass
class FakeLedger:
    """Keep trials in a list; ``log`` is shared with whoever else is watched."""

    log: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)
    raised_to: int = 0

    def wanted(self, trials: int) -> int:
        return max(trials, self.raised_to)

    def ask_within(self, proposer: object, seed: int, wanted: int | None) -> Candidate | None:
        self.seeds.add(seed)
        self.log.append("ask")
        policy = PruningPolicy({"a": GroupPolicy(len(self.trials) / 1000, "l1")})
        return Candidate(len(self.trials), policy, seed, "sampler:fake")

    def tell(self, candidate: Candidate, outcome: Outcome, seconds: dict[str, float]) -> Trial:
        self.log.append("tell")
        trial = Trial(candidate, outcome, seconds, 0)
        self.trials.append(trial)
        return trial


@dataclass
class Watcher:
    log: list[str]

    def asked(self, candidate: Candidate) -> None:
        self.log.append(f"asked {candidate.number}")

    def phase(self, name: str) -> None:
        self.log.append(f"phase {name}")

    def told(self, trial: Trial) -> None:
        self.log.append(f"told {trial.number} {type(trial.outcome).__name__}")


def always(outcome: Outcome) -> Callable[[Candidate, Callable[[str], None], EarlyStopper], Evaluation]:
    def evaluate(candidate: Candidate, on_phase: Callable[[str], None], stopper: EarlyStopper) -> Evaluation:
        on_phase("prune")
        on_phase("score")
        return Evaluation(outcome, {"prune": 0.25, "score": 0.5})

    return evaluate


def go(ledger: FakeLedger, evaluate: Callable[..., Evaluation], total: int, seed: int = 0) -> int:
    return search(ledger, object(), evaluate, total, seed, Watcher(ledger.log), ledger.log.append)  # type: ignore[arg-type]


def test_it_stops_at_the_total_and_says_how_many_were_added() -> None:
    ledger = FakeLedger()
    assert go(ledger, always(GOOD), 7, seed=5) == 7
    assert [trial.number for trial in ledger.trials] == list(range(7))
    assert ledger.seeds == {5}


def test_it_resumes_to_the_total_and_does_nothing_when_done() -> None:
    ledger = FakeLedger()
    go(ledger, always(GOOD), 3)
    assert go(ledger, always(GOOD), 5) == 2
    ledger.log.clear()
    assert go(ledger, always(GOOD), 5) == 0
    assert go(ledger, always(GOOD), 2) == 0
    assert ledger.log == []
    assert len(ledger.trials) == 5


def test_everything_happens_in_order() -> None:
    ledger = FakeLedger()
    go(ledger, always(GOOD), 2)
    once = ["ask", "asked {}", "phase prune", "phase score", "tell", "told {} Completed"]
    assert ledger.log == [step.format(number) for number in (0, 1) for step in once]


def test_each_candidate_is_stopperd_by_the_trials_before_it_in_whatever_run() -> None:
    seen: list[tuple[int, list[int]]] = []

    def evaluate(candidate: Candidate, on_phase: Callable[[str], None], stopper: EarlyStopper) -> Evaluation:
        assert stopper.candidate is candidate
        seen.append((candidate.number, [trial.number for trial in stopper.trials]))
        return Evaluation(GOOD, {})

    ledger = FakeLedger()
    go(ledger, evaluate, 2)
    go(ledger, evaluate, 4)
    assert seen == [(number, list(range(number))) for number in range(4)]


def test_seconds_are_the_evaluator_s_with_the_time_of_asking() -> None:
    ledger = FakeLedger()
    go(ledger, always(GOOD), 1)
    seconds = ledger.trials[0].seconds
    assert seconds == {"ask": seconds["ask"], "prune": 0.25, "score": 0.5}
    assert 0 <= seconds["ask"] < 1


def test_it_gives_up_when_the_first_ones_fail_for_one_cause_and_names_it() -> None:
    ledger = FakeLedger()
    with pytest.raises(EvaluationError, match="the forward pass fails") as caught:
        go(ledger, always(BAD), 50)
    assert len(ledger.trials) == SURE == 3
    for part in ("first 3 candidates", "ModelError", "same command", "--trials", "Traceback of number"):
        assert part in str(caught.value)
    assert ledger.log[-1] == "told 2 Failed"


def test_it_gives_up_when_several_in_a_row_fail_for_any_cause() -> None:
    outcomes = iter([GOOD, *(Failed("ModelError", "abcde"[n]) for n in range(5)), GOOD])
    ledger = FakeLedger()
    with pytest.raises(EvaluationError, match="the last 5 candidates all failed; the last one with ModelError: e"):
        go(ledger, lambda candidate, on_phase, stopper: Evaluation(next(outcomes), {}), 50)
    assert len(ledger.trials) == 1 + FAILURES_IN_A_ROW == 6


def test_the_failures_of_an_earlier_run_do_not_count() -> None:
    ledger = FakeLedger()
    with pytest.raises(EvaluationError):
        go(ledger, always(BAD), 50)
    assert go(ledger, always(GOOD), 6) == 3


def test_one_success_among_failures_lets_it_go_on() -> None:
    ledger = FakeLedger()
    outcomes = iter([BAD, BAD, GOOD, BAD, BAD, BAD, BAD, GOOD] * 3)
    assert go(ledger, lambda candidate, on_phase, stopper: Evaluation(next(outcomes), {}), 24) == 24


def test_failing_to_the_end_of_a_short_search_is_told_too() -> None:
    ledger = FakeLedger()
    with pytest.raises(EvaluationError):
        go(ledger, always(BAD), SURE)
    assert go(FakeLedger(), always(BAD), SURE - 1) == SURE - 1


def test_an_interrupt_leaves_the_candidate_asked_and_untold() -> None:
    ledger = FakeLedger()

    def interrupted(candidate: Candidate, on_phase: Callable[[str], None], stopper: EarlyStopper) -> Evaluation:
        if candidate.number == 2:
            raise KeyboardInterrupt
        return Evaluation(GOOD, {})

    with pytest.raises(KeyboardInterrupt):
        go(ledger, interrupted, 5)
    assert ledger.log[-2:] == ["ask", "asked 2"]
    assert len(ledger.trials) == 2
    assert go(ledger, always(GOOD), 5) == 3


def test_a_ledger_that_cannot_store_ends_the_search() -> None:
    class FullLedger(FakeLedger):
        def tell(self, candidate: Candidate, outcome: Outcome, seconds: dict[str, float]) -> Trial:
            if candidate.number == 1:
                raise StudyError("database or disk is full")
            return super().tell(candidate, outcome, seconds)

    ledger = FullLedger()
    with pytest.raises(StudyError, match="full"):
        go(ledger, always(GOOD), 5)
    assert len(ledger.trials) == 1


# -- other workers ----------------------------------------------------------------------------------------------------


@dataclass
class SharedLedger(FakeLedger):
    """A ledger on which another worker finishes a trial at some moments: ``others`` maps how often was asked to it."""

    others: dict[int, int] = field(default_factory=dict)
    nothing_at: tuple[int, ...] = ()
    asked: int = 0

    def ask_within(self, proposer: object, seed: int, wanted: int | None) -> Candidate | None:
        self.asked += 1
        if self.asked in self.others:
            other = Candidate(100 + self.others[self.asked], PruningPolicy(), 0, "sampler:other")
            self.trials.append(Trial(other, GOOD, {}, 1))
        return None if self.asked in self.nothing_at else super().ask_within(proposer, seed, wanted)


def test_trials_of_other_workers_are_shown_and_judged_by_and_count() -> None:
    ledger, seen = SharedLedger(others={2: 0}), dict[int, list[int]]()

    def evaluate(candidate: Candidate, on_phase: Callable[[str], None], stopper: EarlyStopper) -> Evaluation:
        seen[candidate.number] = [trial.number for trial in stopper.trials]
        return Evaluation(GOOD, {})

    assert go(ledger, evaluate, 3) == 2
    assert "told 100 Completed" in ledger.log
    assert list(seen.values()) == [[], [0, 100]]


def test_who_finds_nothing_to_ask_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PAUSE_SECONDS", 0.0)
    ledger = SharedLedger(others={4: 0}, nothing_at=(2, 3, 4))
    assert go(ledger, always(GOOD), 2) == 1
    assert ledger.log.count(f"phase {WAITING}") == 3
    assert ledger.log[-1] == "told 100 Completed"


def test_a_total_that_another_worker_raised_counts() -> None:
    assert go(FakeLedger(raised_to=4), always(GOOD), 2) == 4


def test_what_comes_too_late_is_said_and_the_search_goes_on() -> None:
    class Late(FakeLedger):
        def tell(self, candidate: Candidate, outcome: Outcome, seconds: dict[str, float]) -> Trial:
            if len(self.seeds) == 1 and not self.trials and "late" not in self.log:
                self.trials.append(Trial(candidate, GOOD, seconds, 1))
                raise LeaseLostError("late")
            return super().tell(candidate, outcome, seconds)

    ledger = Late()
    assert go(ledger, always(GOOD), 3) == 2
    assert ledger.log.count("late") == 1
    assert [trial.number for trial in ledger.trials] == [0, 1, 2]
