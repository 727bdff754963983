"""The printed report: readable at 80 columns, plain in a pipe, never confused by brackets."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from fake_studies import DENSE, many_trials, measurement, trial
from rich.console import Console

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.core.trial import Failed
from autoprune.report.content.rows import Failure
from autoprune.report.content.summary import summarise
from autoprune.report.content.terminal import failure_lines, front_text, render
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]


def spaced(text: str) -> str:
    return " ".join(text.split())


def test_the_whole_report_at_eighty_columns(make_view: MakeView) -> None:
    text = front_text(summarise(make_view(many_trials(40), running=1)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("digits-resnet56 · budget 50 MFLOPs\nbest within budget: trial ")
    for part in (
        "★",
        "◆",
        "uniform",
        "dense   98.90 ±0.45 0.00 126 (100%)",
        "1 running or interrupted",
        "40 completed",
    ):
        assert part in text
    assert FLOP_CONVENTION[1:] in spaced(text)
    assert "beats beyond noise" in spaced(text)
    assert "noise or not" in spaced(front_text(summarise(make_view(many_trials(40)), noise_aware=False), width=80))


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_number_is_cut_off(make_view: MakeView, width: int) -> None:
    text = front_text(summarise(make_view(many_trials(40))), width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_pipe_gets_no_escape_codes_and_a_terminal_gets_some(
    make_view: MakeView, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    summary = summarise(make_view(many_trials(20)))
    pipe, terminal = io.StringIO(), io.StringIO()
    render(summary, Console(file=pipe, width=80))
    render(summary, Console(file=terminal, width=80, force_terminal=True, color_system="standard"))
    assert "\x1b" not in pipe.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b" not in front_text(summary)


def test_brackets_are_text(make_view: MakeView) -> None:
    trials = [
        trial(0, measurement(0.97, 40), origin="sampler:[red]"),
        trial(1, Failed("KeyError", "[/bold] [red]'a'[/red] [link=x]")),
        trial(2, Failed("Error", "\x1b[31mloud\x07")),
    ]
    text = front_text(summarise(make_view(trials)))
    assert "[red]" in text
    assert "KeyError: [/bold] [red]'a'[/red] [link=x]" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("count", [0, 1])
def test_little_to_say(make_view: MakeView, count: int) -> None:
    trials = [trial(n, measurement(0.97, 40)) for n in range(count)]
    text = front_text(summarise(make_view(trials)))
    assert ("no completed trial yet" in text) == (count == 0)
    assert ("best within budget: trial 0 (tpe)" in text) == (count == 1)
    assert "dense" in text
    assert f"trials: {count} finished" in text


def test_only_failures_are_shown_with_reasons(make_view: MakeView) -> None:
    text = front_text(summarise(make_view([trial(n, Failed("E", "same")) for n in range(9)])))
    assert "no completed trial yet" in text
    assert "trials 0, 1, 2, 3, 4 …: E: same" in text
    assert "9 failed" in text


def test_nothing_within_budget(make_view: MakeView) -> None:
    summary = summarise(make_view([trial(0, measurement(0.97, 40))]), Budget.parse({"mflops": 20}))
    text = front_text(summary)
    assert "no trial of 1 completed ones meets the budget" in text
    assert "the nearest is trial 0" in text
    assert "★" not in text


def test_no_budget(make_view: MakeView) -> None:
    text = front_text(summarise(make_view([trial(0, measurement(0.97, 40))], Budget())))
    assert "digits-resnet56 · no budget\nmost accurate: trial 0 (tpe)" in text
    assert "★ most accurate" in text


def test_exact_values_have_no_error_and_missing_ones_a_dash(make_view: MakeView) -> None:
    bare = Measurement({"accuracy": 0.9, "mflops": 40.0, "latency_ms": 2.0})
    text = front_text(summarise(make_view([trial(0, bare)], facts={"dense": DENSE.to_json()})))
    row = next(line for line in text.splitlines() if " tpe " in line and "best" not in line)
    assert "±" not in row
    assert row.split()[-2:] == ["–", "–"]


def test_failures_are_grouped_by_reason() -> None:
    failures = tuple(Failure(n, "E", f"reason {n % 7}") for n in range(14))
    lines = list(failure_lines(failures))
    assert lines[0] == "trials 0, 7: E: reason 0"
    assert lines[-1] == "2 more reasons are in front.json"
    assert list(failure_lines((Failure(3, "KeyError", ""),))) == ["trial 3: KeyError"]
