"""Latency of another machine over a real SSH connection: two machines, and a cable that is pulled in the middle."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ssh_server
from ssh_server import SshServer
from tiny import write_task
from tiny_study import tiny_spec

import autoprune.export.remote_timer
from autoprune.core.trial import Completed, Untimed
from autoprune.export import timing_script
from autoprune.export.onnx import missing_packages
from autoprune.loggers.events import EventDisplay
from autoprune.search.session import run_search
from autoprune.search.time_owed import time_owed
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.view import open_view

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(ssh_server.why_not()), reason=ssh_server.why_not() or "-"),
    pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}"),
    pytest.mark.usefixtures("process_is_left_as_it_was"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with ssh_server.ssh_server(tmp_path / "sshd") as started:
        yield started


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(autoprune.export.remote_timer, "PAUSES", (1.0,))
    return []


def spec_for(folder: Path, server: SshServer, host: str, trials: int, **latency: float) -> StudySpec:
    """Return a study whose networks are timed by the program as it is copied to a machine."""
    script = folder / "board" / "autoprune_time.py"
    script.parent.mkdir(exist_ok=True)
    script.write_bytes(Path(timing_script.__file__).read_bytes())
    command = f"{server.client} {shlex.quote(sys.executable)} {script} - --host {host}"
    how = {"runtime": "auto", "blocks": 5, "calls": 1, "command": command, "command_seconds": 60.0, **latency}
    return tiny_spec(
        write_task(folder), latency=how, trials=trials, objectives=("accuracy", "latency_ms"), budget={"mflops": "60%"}
    )


def outcomes(study: StudyFolder) -> list[type]:
    return [type(trial.outcome) for trial in open_view(study.path).trials]


def test_a_study_is_timed_over_ssh_on_one_machine_and_goes_on_while_it_is_away(
    tmp_path: Path, server: SshServer, said: list[str]
) -> None:
    display = EventDisplay(lambda event: said.append(event.text))
    study, spec = StudyFolder(tmp_path / "study"), spec_for(tmp_path, server, "pi", 2)
    run_search(spec, study, display)
    assert outcomes(study) == [Completed, Completed]

    server.stop()
    run_search(spec.model_copy(update={"trials": 4}), study, display)
    assert outcomes(study) == [Completed, Completed, Untimed, Untimed]
    assert any("Connection refused" in line for line in said)

    server.start()
    other = spec_for(tmp_path, server, "pi2", 4)
    assert time_owed(other, study, display).timed == 0
    assert any("timed on pi2" in line and "that of pi (" in line for line in said)

    assert time_owed(spec, study, display).timed == 2
    assert outcomes(study) == [Completed] * 4
    trials = open_view(study.path).trials
    assert {trial.outcome.latency_host for trial in trials if isinstance(trial.outcome, Completed)} == {"pi"}


def test_a_cable_that_is_pulled_in_the_middle_costs_one_try(tmp_path: Path, server: SshServer, said: list[str]) -> None:
    """Pull it while the dense network is timed, and put it back."""
    pulled = threading.Event()

    def pull() -> None:
        for _ in range(3000):
            if _runs_the_program(server):
                server.stop()
                pulled.set()
                server.start()
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=pull, daemon=True)
    watcher.start()
    study = StudyFolder(tmp_path / "study")
    spec = spec_for(tmp_path, server, "pi", 1, calls=2000)
    run_search(spec, study, EventDisplay(lambda event: said.append(event.text)))
    watcher.join(30)
    assert pulled.is_set()
    assert any("ended with exit code" in line and "trying again" in line for line in said), said
    assert outcomes(study) == [Completed]


def _runs_the_program(server: SshServer) -> bool:
    for process in server.sessions():
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"autoprune_time.py" in words and not words.startswith((b"sh\0", b"bash\0")):
            return True
    return False


def test_the_server_is_reached_with_keys_of_the_tests_alone(server: SshServer) -> None:
    done = subprocess.run([*shlex.split(server.client), "echo here"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("here\n", 0), done.stderr
