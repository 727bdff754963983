"""What a person sees while a search runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, OverBudget, Stopped, Trial
from autoprune.loggers.console import LiveDisplay, PlainDisplay, make_display

DENSE = Measurement({"accuracy": 0.99, "mflops": 100.0, "latency_ms": 4.0})
GOOD = Measurement({"accuracy": 0.97, "loss": 0.1, "mflops": 49.5, "latency_ms": 2.0}, {"accuracy": 0.01})


def trial(outcome: Outcome, number: int = 0, origin: str = "sampler:tpe") -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, origin), outcome, {"finetune": 3.0, "ask": 1.0}, 0)


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)


def shown(display: PlainDisplay | LiveDisplay) -> str:
    return display._console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveDisplay), (False, PlainDisplay)])
def test_a_terminal_gets_a_live_display_and_a_file_plain_lines(terminal: bool, kind: type, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(make_display(console(terminal))) is kind


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_both_show_trials_the_best_and_what_is_going_on(kind: type) -> None:
    with kind(console(kind is LiveDisplay)) as display:
        display.say("finding groups")
        display.began([], 3, Budget({"mflops": Limit(50)}), DENSE)
        display.asked(trial(Completed(GOOD)).candidate)
        display.phase("finetune")
        display.told(trial(Completed(GOOD)))
        display.told(trial(Failed("NonFiniteError", "the loss is NaN\nat step 3"), 1))
    text = shown(display)
    assert "97.00 % ± 1.00 %, 49.50 MFLOPs, 2.00 ms (×2.00)" in text
    assert "failed: NonFiniteError: the loss is NaN" in text
    assert "at step 3" not in text
    if kind is LiveDisplay:
        assert "2 of 3 trials" in text
        assert "trial 0: finetune" in text
        assert "best 97.00 %" in text
    else:
        assert "finding groups" in text
        assert "[1/3] trial 0 tpe" in text
        assert "8 s left" in text


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_a_warning_stays_in_sight(kind: type) -> None:
    with kind(console(kind is LiveDisplay)) as display:
        display.warn("the dense network is at chance")
        display.say("finding groups")
    assert shown(display).count("the dense network is at chance") == 1


def test_the_time_left_is_the_median_of_recent_trials_times_those_to_come() -> None:
    display = PlainDisplay(console(False))
    display.began([], 10, Budget(), DENSE)
    assert display.seconds_left is None
    for number in range(2):
        display.told(trial(Completed(GOOD), number))
    assert display.seconds_left == 8 * 4.0


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (OverBudget(GOOD, {"mflops": 0.125}), "over budget: mflops by 12.5 %"),
        (Stopped("clearly worse", GOOD), "stopped: clearly worse"),
        (Completed(GOOD, spared="clearly worse"), "(×2.00); a check: it would have been stopped"),
    ],
)
def test_every_outcome_has_its_words(outcome: Outcome, words: str) -> None:
    display = PlainDisplay(console(False))
    display.began([], 1, Budget(), DENSE)
    display.told(trial(outcome))
    assert words in shown(display)


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    display = PlainDisplay(console(False))
    display.began([], 1, Budget(), DENSE)
    display.told(trial(Failed("Error", "[red]oops[/red]"), origin="sampler:[bold]"))
    assert "[red]oops[/red]" in shown(display)
    assert "[bold]" in shown(display)
