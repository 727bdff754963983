"""W&B itself, offline, read back from the files it writes: kills, resumes, logins, and what it must not leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
from tiny import call, write_study
from wandb_file import read_runs

from autoprune.core.policy import PruningPolicy
from autoprune.errors import UsageError
from autoprune.loggers.check_logger import check_logger, example_study, example_trials
from autoprune.loggers.dispatch import Loggers, make_logger

wandb = pytest.importorskip("wandb")
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Log offline, with nobody logged in, and give back a home that only W&B writes to."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": home,
        "NETRC": home / ".netrc",
        "WANDB_CONFIG_DIR": home,
        "WANDB_CACHE_DIR": home,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb.teardown()  # settings are read once in a process
    yield home
    wandb.teardown()


def session(folder: Path, stored: int, total: int) -> None:
    """Let the logger see some example trials, those stored before as its resume."""
    trials, loggers = example_trials(), Loggers.named(["wandb"], pytest.fail)
    with loggers.session(example_study(folder), trials[:stored]):
        for trial in trials[stored:total]:
            loggers.told(trial)


def test_the_logger_keeps_the_contract(tmp_path: Path) -> None:
    check_logger("wandb", tmp_path)


def test_a_resumed_study_goes_on_in_the_same_run_and_every_trial_is_one_step(tmp_path: Path) -> None:
    session(tmp_path, 0, 4)
    session(tmp_path, 4, 4)
    session(tmp_path, 4, 6)
    first, second = read_runs(tmp_path)
    assert first.id == second.id == json.loads((tmp_path / "wandb.json").read_text())["run"]
    assert (first.project, first.name, first.tags) == ("autoprune", "example", ("autoprune",))
    assert (set(first.rows), set(second.rows)) == ({0, 1, 2, 3}, {4, 5})
    assert (first.exit_code, second.exit_code) == (0, 0)
    good = {
        "trial": 0,
        "trial/accuracy": 0.9,
        "trial/accuracy_stderr": 0.02,
        "trial/mflops": 49.0,
        "seconds/total": 1.75,
    }
    assert first.rows[0].items() >= good.items()
    assert first.rows[0].items() >= {"trial/outcome": "completed", "best/trial": 0, "best/accuracy": 0.9}.items()
    assert "trial/reason" not in first.rows[0]
    assert first.rows[1]["trial/reason"] == "mflops by 20.0 %"
    assert first.rows[3]["trial/reason"] == "NonFiniteError: the loss is NaN\nat step 3: 'a' <b> é"
    counts = {"search/completed": 1, "search/stopped": 1, "search/over_budget": 1, "search/failed": 1}
    assert first.rows[3].items() >= counts.items()
    assert second.rows[5]["search/trials"] == 6
    trials = example_trials()
    assert json.loads(first.rows[2]["trial/policy"]) == json.loads(trials[2].candidate.policy.to_json())


def test_a_run_has_the_settings_as_its_config_and_the_best_in_its_summary(tmp_path: Path) -> None:
    session(tmp_path, 0, 2)
    (run,) = read_runs(tmp_path)
    assert run.config["finetune"] == {"lr": 0.03}
    assert run.config["session"] == {"budget": "50 MFLOPs", "sampler": "auto", "trials": 7}
    assert run.config["versions"] == {"torch": "2.0"}
    assert run.summary["dense/accuracy"] == 0.95
    best = PruningPolicy.from_json(run.summary["best/policy"])
    assert best.groups == example_trials()[0].candidate.policy.groups


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 255), (RuntimeError, 1)])
def test_a_search_that_did_not_finish_is_seen_as_such(tmp_path: Path, error: type[BaseException], code: int) -> None:
    loggers = Loggers.named(["wandb"], pytest.fail)
    with suppress(error), loggers.session(example_study(tmp_path), []):
        loggers.told(example_trials()[0])
        raise error
    assert read_runs(tmp_path)[0].exit_code == code


KILLED = """
import os, signal, sys
from pathlib import Path
from autoprune.loggers.check_logger import example_study, example_trials
from autoprune.loggers.dispatch import Loggers
loggers = Loggers.named(["wandb"], sys.exit)
with loggers.session(example_study(Path(sys.argv[1])), []):
    for trial in example_trials()[:3]:
        loggers.told(trial)
    os.killpg(0, signal.SIGKILL)  # W&B's own process as well
"""


def test_what_is_counted_is_on_disk_when_everything_is_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], start_new_session=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, b"", b"")
    session(tmp_path, 4, 6)
    killed, resumed = read_runs(tmp_path)
    assert killed.id == resumed.id
    assert (set(killed.rows), set(resumed.rows)) == ({0, 1, 2}, {3, 4, 5})


def test_a_study_that_is_begun_anew_has_a_run_of_its_own(tmp_path: Path) -> None:
    session(tmp_path, 0, 4)
    session(tmp_path, 0, 2)
    session(tmp_path, 2, 3)
    old, *new = read_runs(tmp_path)
    assert [run.id == old.id for run in new] == [False, False]
    assert new[0].id == new[1].id
    assert [set(run.rows) for run in new] == [{0, 1}, {2}]


@pytest.mark.parametrize("damage", ["{", '{"run": "a", "next": {"autoprune": "x"}}'])
def test_a_damaged_memory_begins_a_new_run(tmp_path: Path, damage: str) -> None:
    (tmp_path / "wandb.json").write_text(damage)
    session(tmp_path, 2, 3)
    assert set(read_runs(tmp_path)[0].rows) == {0, 1, 2}


def test_users_settings_hold_and_another_project_gets_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(tmp_path, 0, 2)
    for name, value in {"PROJECT": "ours", "NAME": "mine", "TAGS": "a,b", "ENTITY": "team"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    session(tmp_path, 2, 3)
    run = read_runs(tmp_path)[-1]
    assert (run.project, run.name, run.tags) == ("ours", "mine", ("autoprune", "a", "b"))
    assert set(run.rows) == {0, 1, 2}


def test_a_run_that_the_user_has_open_is_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    theirs = wandb.init(project="theirs", dir=tmp_path, settings=wandb.Settings(silent=True))
    (tmp_path / "study").mkdir()
    session(tmp_path / "study", 0, 1)
    assert wandb.run is theirs
    theirs.log({"loss": 1.0})
    capfd.readouterr()
    wandb.termwarn("their own words")
    assert "their own words" in capfd.readouterr().err
    theirs.finish()
    assert read_runs(tmp_path)[0].rows[0]["loss"] == 1.0


def test_nothing_is_logged_or_counted_while_wandb_is_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()
    session(tmp_path, 0, 2)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    session(tmp_path, 2, 3)
    assert set(read_runs(tmp_path)[0].rows) == {0, 1, 2}


# -- logging in -------------------------------------------------------------------------------------------------------


def test_without_a_key_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    with pytest.raises(UsageError, match=r"no API key.*`wandb login`.*WANDB_MODE=offline"):
        make_logger("wandb")


@pytest.mark.parametrize("host", ["api.wandb.ai", "wandb.example.org:8080"])
def test_a_key_of_the_server_is_found_where_wandb_login_puts_it(
    surroundings: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    if "example" in host:
        monkeypatch.setenv("WANDB_BASE_URL", f"https://{host}")
    wandb.teardown()
    (surroundings / ".netrc").write_text(f"machine elsewhere.org\n  login user\n  password {KEY}\n")
    with pytest.raises(UsageError, match="no API key"):
        make_logger("wandb")
    (surroundings / ".netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    make_logger("wandb")


def test_settings_that_wandb_does_not_take_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    wandb.teardown()
    with pytest.raises(UsageError, match=r"does not take its settings: mode: .*'offline'[^\n]*$"):
        make_logger("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")


def test_a_folder_named_wandb_is_not_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))  # as Python imports a folder without code
    with pytest.raises(UsageError, match=r"pip install 'autoprune\[wandb\]'"):
        make_logger("wandb")


def test_a_server_that_is_away_does_not_end_the_session_and_gets_no_key_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    for name, value in {"API_KEY": KEY, "BASE_URL": "http://127.0.0.1:9", "INIT_TIMEOUT": "2"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()
    warnings: list[str] = []
    loggers = Loggers.named(["wandb"], warnings.append)
    with loggers.session(example_study(tmp_path), []):
        loggers.told(example_trials()[0])
    (warning,) = warnings
    assert "logger wandb failed" in warning
    assert capfd.readouterr() == ("", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


# -- the whole command ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_search_prints_nothing_of_wandbs_and_leaves_files_in_its_study_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = write_study(tmp_path / "studies", trials=2), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for trials in ("2", "3"):
        done = call("search", folder, "--log", "wandb", "--trials", trials, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "wandb" not in done.stdout + done.stderr
    assert list(elsewhere.iterdir()) == []
    assert [set(run.rows) for run in read_runs(folder)] == [{0, 1}, {2}]
    assert [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    allowed = {"header", "run", "config", "summary", "metric", "history", "telemetry", "exit", "preempting", "stats"}
    for run in read_runs(folder):
        assert (run.host, run.kinds - allowed) == ("", set()), "nothing of the machine"
    assert call("studies", "rm", folder, "--yes").returncode == 0
    assert {path.name for path in folder.iterdir()} <= {"study.toml", "study.lock"}
