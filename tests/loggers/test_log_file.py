"""What a search leaves in its study's log, and how much it says on the terminal."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from stored_fakes import DENSE, FAILED, good
from tiny import write_study

from autoprune.cli import main
from autoprune.core.budget import Budget
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Outcome, Trial
from autoprune.errors import StudyError
from autoprune.loggers import log_file as session_log
from autoprune.loggers.console import LiveDisplay, PlainDisplay, QuietDisplay, make_display
from autoprune.loggers.log_file import logged


@pytest.fixture(autouse=True)
def process_is_left_as_it_was() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def trial(outcome: Outcome, number: int = 0) -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), outcome, {"finetune": 3.0, "ask": 0.01}, 0)


def quiet() -> QuietDisplay:
    return QuietDisplay(Console(file=io.StringIO(), width=200))


def shown(display: PlainDisplay | LiveDisplay) -> str:
    return str(display._console.file.getvalue())  # type: ignore[attr-defined]


# -- the log ----------------------------------------------------------------------------------------------------------


def test_sessions_are_appended_with_times_trials_and_tracebacks(tmp_path: Path) -> None:
    path = tmp_path / "search.log"
    for _ in range(2):
        with logged(quiet(), path, "mine") as display:
            display.say("finding groups")
            display.warn("the dense network is at chance")
            display.began([], 3, Budget(), DENSE)
            display.asked(trial(good()).candidate)
            display.phase("finetune")
            display.told(trial(good()))
            display.asked(trial(FAILED, 1).candidate)
            display.told(trial(good(), 7))  # another worker's, who logs it
            display.told(trial(FAILED, 1))
    text = path.read_text()
    assert text.count("session begins: mine, process ") == 2
    assert text.count("session ends") == 2
    for words in (
        "INFO    finding groups",
        "WARNING the dense",
        "trial 0 begins (sampler:tpe)",
        "[3/3] trial 1 failed",
    ):
        assert text.count(words) == 2, words
    assert "trial 7" not in text
    assert "3.0 s (finetune 3.0)" in text
    assert '    File "/home/me/secret/net.py", line 3, in f\n    boom' in text
    stamped = [line for line in text.splitlines() if not line.startswith("    ")]
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING)", line) for line in stamped)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "WARNING interrupted"),
        (StudyError("the disk is full"), "ERROR   StudyError: the disk is full"),
        (ZeroDivisionError("a bug"), "Traceback"),
    ],
)
def test_how_a_session_ended_is_logged(tmp_path: Path, error: BaseException, words: str) -> None:
    with pytest.raises(type(error)), logged(quiet(), tmp_path / "search.log", "mine"):
        raise error
    assert words in (tmp_path / "search.log").read_text()
    assert "session ends" not in (tmp_path / "search.log").read_text()


def test_the_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_log, "LARGEST", 1000)
    monkeypatch.setattr(session_log, "LONGEST", 300)
    with logged(quiet(), tmp_path / "search.log", "mine") as display:
        for number in range(100):
            display.say(f"message {number} " + "x" * 500)
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"search.log", "search.log.1", "search.log.2"}
    assert max(sizes.values()) <= 1000
    assert "message 99" in (tmp_path / "search.log").read_text()


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "search.log").mkdir()
    display = quiet()
    with logged(display, tmp_path / "search.log", "mine") as both:
        both.told(trial(good()))
        both.told(trial(good(), 1))
    assert shown(display).count("cannot be written") == 1
    assert len(display.trials) == 2


# -- how much it prints ------------------------------------------------------------------------------------------------


def test_a_quiet_display_says_warnings_and_failures_alone() -> None:
    display = make_display(Console(file=io.StringIO(), width=200, force_terminal=True), "quiet")
    with display:
        display.say("finding groups")
        display.began([], 2, Budget(), DENSE)
        display.phase("finetune")
        display.told(trial(good()))
        assert shown(display) == ""
        display.told(trial(FAILED, 1))
        display.warn("at chance")
    assert shown(display).splitlines() == ["trial 1 failed: RuntimeError: no /home/me/secret/data.bin", "at chance"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_verbose_display_says_what_each_phase_took_and_tracebacks(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    display = make_display(Console(file=io.StringIO(), width=200, force_terminal=is_terminal), "verbose")
    with display:
        display.began([], 2, Budget(), DENSE)
        display.asked(trial(good()).candidate)
        display.phase("recalibrate")
        display.told(trial(FAILED))
    assert "    seconds: finetune 3.0" in shown(display)
    assert "line 3, in f" in shown(display)
    assert is_terminal or "trial 0: recalibrate" in shown(display)


def test_saying_less_and_more_at_once_makes_no_sense(tmp_path: Path) -> None:
    result = run("search", write_study(tmp_path / "studies"), "-q", "-v")
    assert result.exit_code == 2
    assert "give one of them" in result.stderr
