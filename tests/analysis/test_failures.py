"""Failures are counted by cause, and a cause is certain only where nothing ever came through."""

from __future__ import annotations

import pytest

from autoprune.analysis.failures import causes_of, failures_in_words, sure_to_repeat
from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, OverBudget, Stopped, Trial

TRACE = 'Traceback:\n  File "/me/autoprune/x.py", line 9, in f\n  File "/me/net.py", line {}, in g\n'
DONE = Completed(Measurement({"accuracy": 1.0}))


def trial(number: int, outcome: Outcome, sparsity: float | None = None) -> Trial:
    share = number / 100 if sparsity is None else sparsity
    policy = PruningPolicy({"a": GroupPolicy(share, "l1")})
    return Trial(Candidate(number, policy, 0, "sampler:tpe"), outcome, {}, 0)


def crash(line: int = 3, message: str = "shapes 4×3 and 2×5 do not fit") -> Failed:
    return Failed("RuntimeError", message, TRACE.format(line))


def told(message: str) -> Failed:
    return Failed("ModelError", message)


def test_one_line_of_code_is_one_cause_whatever_it_says_and_numbers_in_a_message_make_no_difference() -> None:
    trials = [
        *(trial(n, crash(message=f"shape {n}")) for n in range(3)),
        trial(3, crash(line=4)),
        *(trial(n, told(f"the network returned {n} rows\nand more")) for n in (4, 5)),
        trial(6, told("something else")),
        trial(7, DONE),
    ]
    found = [(cause.error, cause.where, cause.numbers) for cause in causes_of(trials)]
    assert found == [
        ("RuntimeError", "net.py, line 3", (0, 1, 2)),
        ("ModelError", "", (4, 5)),
        ("RuntimeError", "net.py, line 4", (3,)),
        ("ModelError", "", (6,)),
    ]
    assert failures_in_words(trials) == (
        "7 of 8 trials failed: 3 with RuntimeError: shape 0 (net.py, line 3); 2 with ModelError: the network returned "
        "4 rows; 1 with RuntimeError: shapes 4×3 and 2×5 do not fit (net.py, line 4); 1 more cause"
    )
    assert failures_in_words(trials[:3]) == "3 of 3 trials failed: RuntimeError: shape 0 (net.py, line 3)"
    assert failures_in_words([trial(0, DONE)]) == failures_in_words([]) == ""


def test_three_different_candidates_that_fail_alike_are_enough_before_anything_came_through() -> None:
    trials = [trial(n, crash()) for n in range(3)]
    assert sure_to_repeat(trials[:2], trials[:2]) is None
    cause = sure_to_repeat(trials, trials)
    assert cause is not None
    assert cause.describe() == "RuntimeError: shapes 4×3 and 2×5 do not fit (net.py, line 3)"
    over = trial(9, OverBudget(Measurement({}), {"mflops": 0.1}))
    assert sure_to_repeat([over, *trials], [over, *trials]) is not None


@pytest.mark.parametrize(
    "trials",
    [
        [trial(0, DONE), *(trial(n, crash()) for n in range(1, 4))],
        [trial(0, Stopped("it cannot win", Measurement({}))), *(trial(n, crash()) for n in range(1, 4))],
        [trial(0, crash()), trial(1, crash(line=4)), trial(2, crash())],
        [trial(n, crash(), sparsity=0.5) for n in range(3)],  # one network three times
        [trial(0, crash()), trial(1, crash()), trial(2, told("shapes 4×3 and 2×5 do not fit"))],
    ],
)
def test_otherwise_the_next_may_come_through(trials: list[Trial]) -> None:
    assert sure_to_repeat(trials, trials) is None


def test_what_an_earlier_run_failed_for_may_have_been_repaired() -> None:
    trials = [trial(n, crash()) for n in range(5)]
    assert sure_to_repeat(trials, trials[3:]) is None
