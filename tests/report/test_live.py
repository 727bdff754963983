"""A search seen from a second terminal: what is shown, when it ends, and that it gets in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
from click.testing import CliRunner, Result
from stored_fakes import FAILED, STOPPED, good, store
from study_fakes import fake_outcome, make_proposals, open_ledger
from study_fakes import run as asked_and_told

from autoprune.cli import main
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import StudyLockedError
from autoprune.report.live import last_line, news, take_snapshot, time_left
from autoprune.study.folder import StudyFolder
from autoprune.study.lock import is_searched, take_lock
from autoprune.study.manage.list import list_studies
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.storage_url import sqlite_url


def run(*arguments: str | Path, **env: str) -> Result:
    result = CliRunner(env={"COLUMNS": "120", **env}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def trial(number: int, seconds: float, session: int = 0) -> Trial:
    return Trial(Candidate(number, PruningPolicy(), 0, "sampler:tpe"), good(), {"finetune": seconds}, session)


# -- the time left ----------------------------------------------------------------------------------------------------


def test_the_time_left_is_the_median_of_this_session_times_the_trials_to_come() -> None:
    trials = [trial(0, 1000.0), *(trial(n, s, 1) for n, s in enumerate((8.0, 10.0, 10.0, 30.0), 1))]
    left = time_left(trials, {1}, 5)
    assert left is not None
    assert left.seconds == 50.0
    assert left.low < 50.0 < left.high <= 150.0


def test_the_time_that_the_running_trial_has_taken_is_off_and_one_overdue_counts_for_nothing() -> None:
    trials = [trial(0, 10.0)]
    assert time_left(trials, {0}, 3, running_for=4.0).seconds == 26.0  # type: ignore[union-attr]
    assert time_left(trials, {0}, 3, running_for=99.0).seconds == 20.0  # type: ignore[union-attr]


@pytest.mark.parametrize(("session", "to_come"), [(1, 3), (0, 0)])
def test_nothing_is_estimated_before_the_first_trial_of_a_session_and_after_the_last(
    session: int, to_come: int
) -> None:
    assert time_left([trial(0, 10.0)], {session}, to_come) is None


# -- a moment ---------------------------------------------------------------------------------------------------------


def test_a_moment_of_a_search_that_runs(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [good(0.95), good(0.97), STOPPED, FAILED])
    folder.log.write_text("2026-01-01T00:00:00.000Z INFO    trial 4 begins (sampler:tpe)\n    File x\n")
    with filelock.FileLock(folder.lock):
        shot = take_snapshot(folder.path)
    assert shot.progress_line() == "4 of 10 trials: 2 completed, 1 stopped, 1 failed"
    assert shot.state_line().startswith("searching, about ")
    assert shot.doing == "trial 4 begins (sampler:tpe)"
    assert shot.summary is not None
    assert shot.summary.best is not None
    assert shot.summary.best.number == 1
    assert not shot.is_done


def test_that_no_process_searches_is_said_with_what_to_type(tmp_path: Path) -> None:
    result = run("watch", store(tmp_path / "s", [good()]).path, "--once")
    assert result.exit_code == 0
    assert "no process is searching this study" in result.stdout
    assert "`autoprune search` resumes it" in " ".join(result.stdout.split())


@pytest.mark.parametrize(("outcomes", "words"), [([FAILED, FAILED], "no completed trial"), ([], "no completed trial")])
def test_a_study_without_a_completed_trial(tmp_path: Path, outcomes: list[Any], words: str) -> None:
    folder = store(tmp_path / "s", outcomes)
    assert words in run("watch", folder.path, "--once").stdout
    assert json.loads(run("watch", folder.path, "--json").stdout)["report"]["best"] is None


def test_a_study_that_is_being_prepared_says_what_its_log_says(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [], facts={})
    folder.log.write_text("2026-01-01T00:00:00.000Z INFO    training the dense network: epoch 3 of 16\n")
    found = json.loads(run("watch", folder.path, "--json").stdout)
    assert (found["report"], found["doing"]) == (None, "training the dense network: epoch 3 of 16")
    assert "preparing: training the dense network" in run("watch", folder.path, "--once").stdout


def test_json_is_one_moment_with_the_report_in_it(tmp_path: Path) -> None:
    found = json.loads(run("watch", store(tmp_path / "s", [good(), STOPPED]).path, "--json").stdout)
    assert (found["finished"], found["trials"], found["searching"], found["done"]) == (2, 10, False, False)
    assert found["counts"] == {"completed": 1, "over_budget": 0, "stopped": 1, "failed": 0, "untimed": 0}
    assert found["seconds_left"]["median"] == 80.0
    assert found["report"]["best"] == 0


def test_another_budget_is_answered(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [good(0.97, 49.0), good(0.90, 20.0)])
    found = json.loads(run("watch", folder.path, "--json", "--budget-mflops", "25%").stdout)
    assert found["report"]["best"] == 1


@pytest.mark.parametrize("command", [("watch", "--once"), ("report",)])
@pytest.mark.parametrize("limit", ["5", "40%"])
def test_a_budget_on_what_was_not_measured_is_said(tmp_path: Path, command: tuple[str, ...], limit: str) -> None:
    folder = store(tmp_path / "s", [good()])
    result = run(*command, folder.path, "--budget-nonzero-mflops", limit)
    assert result.exit_code == 2
    assert "nonzero_mflops, which this study does not measure" in result.stderr


def test_live_takes_no_option_that_it_would_not_heed(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [good()])
    result = run("report", folder.path, "--live", "--open")
    assert result.exit_code == 2
    assert "leave out --all, --open and --prefer" in result.stderr


def test_last_line_of_a_log_has_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    log = tmp_path / "search.log"
    assert last_line(log) == ""
    log.write_text("2026-01-01T00:00:00.000Z INFO    a \x1b[2J b\n    continued\n")
    assert last_line(log) == "a  [2J b"


# -- again and again --------------------------------------------------------------------------------------------------


def test_lines_come_only_when_something_changes(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [good(0.95)])
    first = take_snapshot(folder.path)
    assert news(first, take_snapshot(folder.path)) == []
    assert len(news(None, first)) == 2
    store(folder.path, [good(0.95), good(0.98), FAILED])
    lines = news(first, take_snapshot(folder.path))
    assert lines[0].startswith("trial 1: 98.00 %")
    assert lines[1].startswith("trial 2: failed: RuntimeError")
    assert lines[2].startswith("3 of 10 trials: 2 completed, 1 failed; no process")
    assert "trial 1 (tpe)" in lines[3]
    second = take_snapshot(store(folder.path, [good(0.95), good(0.98), FAILED]).path)
    third = take_snapshot(store(folder.path, [good(0.95), good(0.98), FAILED, STOPPED]).path)
    assert len(news(second, third)) == 2, "the best is as before"


@pytest.mark.parametrize("command", [("watch", "--every", "0.2"), ("report", "--live")])
def test_watching_ends_when_the_study_has_its_trials(tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = store(tmp_path / "s", [good()] * 3, wanted=3)
    before = {path.name for path in folder.path.iterdir()}
    result = run(*command, folder.path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "3 of 3 trials: 3 completed; done"
    assert {path.name for path in folder.path.iterdir()} == before, "nothing is written"


def test_a_search_that_has_its_trials_is_watched_until_it_lets_go_of_the_study(tmp_path: Path) -> None:
    folder = store(tmp_path / "s", [good(0.95)], wanted=2)

    with filelock.FileLock(folder.lock):
        first = take_snapshot(folder.path)
        store(folder.path, [good(0.95), good(0.98)], wanted=2)
        second = take_snapshot(folder.path)
        assert not second.is_done, "the search holds its lock until it has said what it found"
        assert "trial 1: 98.00 %" in news(first, second)[0]
    assert take_snapshot(folder.path).is_done


def test_ctrl_c_ends_a_watcher_of_a_terminal_without_an_error(tmp_path: Path) -> None:
    import pty
    import signal

    folder = store(tmp_path / "s", [good()])
    main_end, terminal = pty.openpty()
    command = [sys.executable, "-m", "autoprune", "watch", str(folder.path), "--every", "0.2"]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, env=env, cwd=root)
    os.close(terminal)
    seen = b""
    while b"dense" not in seen:
        seen += os.read(main_end, 4096)
    process.send_signal(signal.SIGINT)
    while process.poll() is None:
        try:
            seen += os.read(main_end, 4096)
        except OSError:
            break
    assert process.wait(20) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    os.close(main_end)
    shown = seen.decode()
    assert "1 of 10 trials" in shown
    assert coloured(shown) == [], "NO_COLOR is honoured"


@pytest.mark.parametrize("command", [("watch", "--once"), ("studies", "--root")])
def test_no_color_is_honoured(tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = store(tmp_path / "s", [good(), STOPPED]).path
    folder = folder.parent if command[0] == "studies" else folder
    env = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[1m" in run(*command, folder, **env).stdout, "the same is styled, so that this test can fail"
    assert coloured(run(*command, folder, **env, NO_COLOR="1").stdout) == []


def coloured(text: str) -> list[str]:
    """Return the escape sequences that set a colour."""
    import re

    codes = re.findall(r"\x1b\[([\d;]+)m", text)
    return [code for code in codes if any(30 <= int(part) <= 49 or 90 <= int(part) <= 107 for part in code.split(";"))]


# -- the lock ---------------------------------------------------------------------------------------------------------


def test_asking_for_the_lock_makes_no_file_and_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "study.lock"
    assert not is_searched(path)
    assert not path.exists()
    lock = take_lock(path)
    assert is_searched(path)
    assert is_searched(path), "asking does not take it away"
    with pytest.raises(StudyLockedError, match="autoprune watch"):
        take_lock(path)
    lock.release()
    assert not is_searched(path)


def test_those_who_ask_all_the_time_never_keep_a_search_from_beginning(tmp_path: Path) -> None:
    path, ended = tmp_path / "study.lock", threading.Event()
    take_lock(path).release()

    def ask() -> None:
        while not ended.is_set():
            is_searched(path)
            time.sleep(0.0005)

    watchers = [threading.Thread(target=ask) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(100):
            take_lock(path).release()
    finally:
        ended.set()
        for watcher in watchers:
            watcher.join()


# -- several workers --------------------------------------------------------------------------------------------------


def test_workers_share_the_trials_to_come() -> None:
    trials = [trial(0, 10.0), trial(1, 10.0)]
    assert time_left(trials, {0}, 8, workers=2).seconds == 10.0 + 10.0 * 3  # type: ignore[union-attr]
    assert time_left(trials, {0}, 1, workers=4).seconds == 10.0  # type: ignore[union-attr]


def test_a_watcher_sees_what_each_worker_is_at_and_since_when(tmp_path: Path) -> None:
    proposals = make_proposals()
    write_resolved(StudySpec(name="fake", objectives=("accuracy", "mflops")), StudyFolder(tmp_path).resolved)
    with open_ledger(tmp_path) as one, open_ledger(tmp_path) as other:
        for ledger in (one, other):
            ledger.begin_session({"budget": proposals.budget.to_json(), "trials": 9})
        one.remember("dense", proposals.dense.to_json())
        list(asked_and_told(one, proposals, 3))
        asked = [ledger.ask(proposals, 0) for ledger in (one, other)]
        shot = take_snapshot(tmp_path)
        assert [(at.number, at.session) for at in shot.workers] == [(asked[0].number, 0), (asked[1].number, 1)]
        lines = shot.worker_lines()
        assert lines[0].startswith(f"process {os.getpid()} on {one.worker.host}: trial 3 (sampler:random), for ")
        told = shot.to_json()["workers"]
        assert isinstance(told, list)
        assert [each["process"] for each in told] == [os.getpid()] * 2  # type: ignore[index, call-overload]
        other.tell(asked[1], fake_outcome(proposals, asked[1]), {"finetune": 2.0})
    shot = take_snapshot(tmp_path)
    assert shot.workers == ()
    assert shot.summary is not None
    assert [(share.session, share.host, share.trials) for share in shot.summary.workers] == [
        (0, one.worker.host, 3),
        (1, one.worker.host, 1),
    ]


def test_a_search_in_another_folder_is_seen_by_its_heartbeat_and_gone_without_one(tmp_path: Path) -> None:
    from sqlalchemy import text

    here, there = tmp_path / "here", tmp_path / "there"  # two folders that know nothing of each other: two machines
    for folder in (here, there):
        folder.mkdir()
        write_resolved(StudySpec(name="fake", objectives=("accuracy", "mflops")), StudyFolder(folder).resolved)
    proposals, url = make_proposals(), sqlite_url(tmp_path / "shared.db")
    with open_ledger(there, url) as ledger:
        ledger.begin_session({"budget": proposals.budget.to_json(), "trials": 9})
        ledger.remember("dense", proposals.dense.to_json())
        list(asked_and_told(ledger, proposals, 2))
        asked = ledger.ask(proposals, 0)
        shot = take_snapshot(here, url)
        assert [one.searching for one in list_studies(tmp_path, url) if one.name == "here"] == [True]
        assert not is_searched(StudyFolder(here).lock)
        assert (shot.searching, [at.number for at in shot.workers]) == (True, [asked.number])
        assert shot.state_line().startswith("searching")
        with ledger._open.storage.engine.begin() as connection:  # as of a machine that is gone
            connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-1 hour')"))
        shot = take_snapshot(here, url)
        assert (shot.searching, shot.workers) == (False, ())
        assert "no process is searching this study" in shot.state_line()
