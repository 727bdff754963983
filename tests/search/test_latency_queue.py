"""Candidates wait for another machine while the search goes on; nothing of them is lost, and nothing is timed twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_latency_command import Spoken, spec_for
from timing_machine import TimingMachine, timing_machine

import autoprune.export.remote_timer
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Trial, Untimed
from autoprune.export.onnx import missing_packages
from autoprune.loggers.events import EventDisplay
from autoprune.search.latency_queue import own_first
from autoprune.search.session import run_search
from autoprune.search.time_owed import time_owed
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.view import open_view

pytestmark = [
    pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}"),
    pytest.mark.usefixtures("process_is_left_as_it_was"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(autoprune.export.remote_timer, "PAUSES", (0.0, 0.0))
    yield
    assert not [one for one in threading.enumerate() if one.name == "autoprune-latencies"], "the thread has ended"


@pytest.fixture
def machine(tmp_path: Path) -> TimingMachine:
    return timing_machine(tmp_path / "machine")


class Trace:
    """Note what a search told, in order, with the moment of each."""

    def __init__(self) -> None:
        self.told: list[tuple[int, type]] = []
        self.lines: list[str] = []
        self.phases: list[str] = []
        self.interrupts_at = ""

    def display(self) -> EventDisplay:
        trace = self

        class Display(EventDisplay):
            def phase(self, name: str) -> None:
                trace.phases.append(name)
                super().phase(name)

            def told(self, trial: Any) -> None:
                trace.told.append((trial.number, type(trial.outcome)))
                super().told(trial)

            def say(self, message: str) -> None:
                trace.lines.append(message)
                if trace.interrupts_at and trace.interrupts_at in message:
                    raise KeyboardInterrupt
                super().say(message)

        return Display(lambda event: None)


def test_two_machines_without_a_common_folder_begin_at_two_ends() -> None:
    facts = {
        "session:0": {"worker": "here:1-2:77:ab"},
        "session:1": {"worker": "there:3-4:78:cd"},
        "session:2": {},  # of a version that did not store it
    }
    waiting = [
        Trial(Candidate(number, PruningPolicy({}), 0, "guided:drawn"), Untimed("", Measurement({})), {}, number % 4)
        for number in range(8)
    ]
    assert [one.number for one in own_first(waiting, facts, "here:1-2")] == [0, 2, 3, 4, 6, 7, 5, 1]
    assert [one.number for one in own_first(waiting, facts, "there:3-4")] == [1, 2, 3, 5, 6, 7, 4, 0]


def kinds(study: StudyFolder) -> list[type]:
    return [type(trial.outcome) for trial in open_view(study.path).trials]


@pytest.mark.long
def test_a_slow_machine_no_longer_holds_the_search_up(tmp_path: Path, machine: TimingMachine) -> None:
    """The last candidate is scored before the first has its latency; all are told once, in order, with it."""
    trace, spec, study = Trace(), spec_for(tmp_path, machine, trials=3), StudyFolder(tmp_path / "tiny")
    run_search(spec.model_copy(update={"trials": 1}), study, Spoken().display())
    before = machine.calls
    machine.will("slow 12")
    run_search(spec, study, trace.display())
    waits = [line for line in trace.lines if "is scored, and waits to be timed on pi" in line]
    assert len(waits) >= 1
    assert "latency" not in trace.phases, "no trial waits for the other machine"
    drained = next(place for place, line in enumerate(trace.lines) if "all trials are there" in line)
    assert "still wait" in trace.lines[drained]
    took = [place for place, line in enumerate(trace.lines) if " ms on pi" in line]
    assert len(took) == 2
    assert took[-1] > drained
    assert trace.told == [(1, Completed), (2, Completed)]
    assert kinds(study) == [Completed] * 3
    assert machine.calls - before == 2, "each is timed once"


def test_a_machine_that_breaks_off_and_comes_back_is_asked_again_while_the_search_goes_on(
    tmp_path: Path, machine: TimingMachine
) -> None:
    trace, spec, study = Trace(), spec_for(tmp_path, machine, trials=4), StudyFolder(tmp_path / "tiny")
    run_search(spec.model_copy(update={"trials": 1}), study, Spoken().display())
    state = machine.program.with_suffix(".json")
    text = state.read_text().replace(
        '"modes": [[1, "up"]]', f'"modes": [[{machine.calls + 1}, "down"], [{machine.calls + 4}, "up"]]'
    )
    assert "down" in text
    state.write_text(text)
    run_search(spec, study, trace.display())
    assert any("trial 1 has no latency yet" in line and "Connection refused" in line for line in trace.lines)
    assert kinds(study) == [Completed] * 4
    told = sorted(number for number, _ in trace.told)
    assert told == [1, 2, 3], "each once; one that failed may come after one handed over in that moment"


def test_ctrl_c_while_the_last_are_timed_leaves_them_owed(tmp_path: Path, machine: TimingMachine) -> None:
    trace, spec, study = Trace(), spec_for(tmp_path, machine, trials=3), StudyFolder(tmp_path / "tiny")
    run_search(spec.model_copy(update={"trials": 1}), study, Spoken().display())
    machine.will("slow 60")
    trace.interrupts_at = "all trials are there"
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_search(spec, study, trace.display())
    assert time.monotonic() - started < 50, "what is being timed is given up"
    assert kinds(study) == [Completed, Untimed, Untimed]
    machine.will("up")
    assert time_owed(spec, study, Spoken().display()).timed == 2
    assert kinds(study) == [Completed] * 3


def test_optuna_s_samplers_still_wait_for_each_latency(tmp_path: Path, machine: TimingMachine) -> None:
    """They learn from a trial when it is told, and from nothing that comes later."""
    trace, study = Trace(), StudyFolder(tmp_path / "tiny")
    run_search(spec_for(tmp_path, machine, trials=2, sampler="tpe"), study, trace.display())
    assert "latency" in trace.phases
    assert not any("waits to be timed" in line for line in trace.lines)
    assert trace.told == [(0, Completed), (1, Completed)]


_WORKER = """
import sys
from pathlib import Path
sys.path[:0] = [str(Path(p)) for p in sys.argv[3:]]
from autoprune.loggers.events import EventDisplay
from autoprune.search.session import run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
spec = StudySpec.model_validate_json(Path(sys.argv[1]).read_text())
run_search(spec, StudyFolder(Path(sys.argv[2])), EventDisplay(lambda event: print(event.text, flush=True)))
"""


def start_worker(spec: StudySpec, study: StudyFolder) -> subprocess.Popen[str]:
    written = study.path.parent / "worker.json"
    written.write_text(spec.model_dump_json())
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(written), str(study.path), str(here.parent / "support")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.long
def test_two_workers_share_one_queue_and_a_kill_loses_nothing(tmp_path: Path, machine: TimingMachine) -> None:
    """One asks for both; killed in the midst of it, its turn is the other's, and no latency is missing at the end."""
    spec, study = spec_for(tmp_path, machine, trials=6), StudyFolder(tmp_path / "tiny")
    run_search(spec.model_copy(update={"trials": 1}), study, Spoken().display())
    machine.will("slow 3")
    first, second = start_worker(spec, study), start_worker(spec, study)
    try:
        assert first.stdout is not None
        for line in first.stdout:
            if "is scored, and waits to be timed" in line:
                break
        first.send_signal(signal.SIGKILL)
        first.wait()
        said, _ = second.communicate(timeout=240)
    finally:
        for worker in (first, second):
            worker.kill()
            worker.communicate()
    assert second.returncode == 0, said
    run_search(spec, study, Spoken().display())  # what the killed one evaluated is asked again, if it was at it
    assert kinds(study) == [Completed] * 6, said
