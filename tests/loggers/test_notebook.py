"""What a person sees below the cell of a notebook: one block, written anew in its place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from autoprune.core.budget import Budget, Limit
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Failed, Outcome, Trial
from autoprune.loggers.notebook import NotebookDisplay, below_the_cell
from autoprune.loggers.shown_display import shown_display

DENSE = Measurement({"accuracy": 0.99, "mflops": 100.0, "latency_ms": 4.0})
GOOD = Measurement({"accuracy": 0.97, "mflops": 49.5, "latency_ms": 2.0}, {"accuracy": 0.01})


def trial(outcome: Outcome, number: int = 0) -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), outcome, {"finetune": 3.0}, 0)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Handle:
    def __init__(self, cell: list[Mapping[str, str]]) -> None:
        self.cell = cell

    def update(self, shown: Mapping[str, str], *, raw: bool) -> None:
        assert raw
        self.cell[-1] = shown


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, str]]:
    """Return what lies below the cell, by an IPython that has nothing else."""
    shown = list[Mapping[str, str]]()
    fake: Any = ModuleType("IPython.display")

    def display(content: Mapping[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        shown.append(content)
        return Handle(shown)

    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    return shown


def test_a_search_is_one_block_that_is_written_in_place(cell: list[Mapping[str, str]]) -> None:
    clock = Clock()
    with NotebookDisplay(below_the_cell(), clock) as display:
        display.say("finding groups")
        assert cell[0]["text/plain"] == "finding groups … 0 s"
        display.warn("the dense network is at chance")
        clock.seconds = 6
        display.began([], 4, Budget({"mflops": Limit(50)}), DENSE)
        assert "0 of 4 trials, 6 s elapsed" in cell[0]["text/plain"]
        display.asked(trial(Completed(GOOD)).candidate)
        display.phase("finetune")
        assert "now: trial 0: finetune" in cell[0]["text/plain"]
        display.told(trial(Completed(GOOD)))
        display.told(trial(Failed("Error", "<b>\x1b[31mNaN & co.\nat step 3"), 1))
        assert ", 6 s left" in cell[0]["text/plain"]
    assert len(cell) == 1
    lines = cell[0]["text/plain"].splitlines()
    assert lines[0] == "the dense network is at chance"
    assert lines[1] == "trial   0 tpe        97.00 % ± 1.00 %, 49.50 MFLOPs, 2.00 ms (×2.00)"
    assert lines[2].startswith("trial   1 tpe        failed: Error: <b>")
    assert lines[3] == f"{'━' * 15}{'┄' * 15} 2 of 4 trials, 6 s elapsed"
    assert lines[4].startswith("best 97.00 %")
    assert lines[5:] == ["done after 6 s"]
    assert "\x1b" not in cell[0]["text/plain"]
    assert "&lt;b&gt;" in cell[0]["text/html"]
    assert "NaN &amp; co." in cell[0]["text/html"]


def test_a_long_search_shows_its_latest_trials(cell: list[Mapping[str, str]]) -> None:
    with NotebookDisplay(below_the_cell()) as display:
        display.began([], 30, Budget(), DENSE)
        for number in range(25):
            display.told(trial(Completed(GOOD), number))
    lines = cell[0]["text/plain"].splitlines()
    assert lines[0] == "15 earlier trials …"
    assert lines[1].startswith("trial  15")
    assert len(lines) == 1 + 10 + 3


def test_a_pick_ends_with_its_last_step(cell: list[Mapping[str, str]]) -> None:
    with NotebookDisplay(below_the_cell()) as display:
        display.say("exporting to model.onnx")
    assert cell[0]["text/plain"] == "exporting to model.onnx; done after 0 s"


def test_an_error_ends_the_block(cell: list[Mapping[str, str]]) -> None:
    with suppress(KeyboardInterrupt), NotebookDisplay(below_the_cell()) as display:
        display.began([], 3, Budget(), DENSE)
        raise KeyboardInterrupt
    assert cell[0]["text/plain"].endswith("ended after 0 s")


@pytest.mark.parametrize("is_notebook", [True, False])
def test_a_notebook_gets_a_block_of_its_own(
    is_notebook: bool, cell: list[Mapping[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: is_notebook)
    assert isinstance(shown_display(), NotebookDisplay) is is_notebook
    assert cell == []
