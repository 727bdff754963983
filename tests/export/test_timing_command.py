"""A command that times elsewhere: whatever it does wrong is one clear line, and it is asked again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_files import request
from timing_machine import TimingMachine, timing_machine
from torch import nn

from autoprune.core.latency_host import LatencyHost
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import TimingError
from autoprune.export.foreign_program import run_program
from autoprune.export.onnx import missing_packages
from autoprune.export.remote_timer import RemoteTimer
from autoprune.export.timing_command import TimingCommand

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")


@pytest.fixture
def machine(tmp_path: Path) -> TimingMachine:
    return timing_machine(tmp_path / "machine")


def test_an_answer_is_read_with_what_its_machine_is(machine: TimingMachine) -> None:
    found, host = TimingCommand(machine.command, 20.0).time(request())
    assert (found.ratio, found.dense_ms, found.is_noisy) == (1.0, 8.0, False)
    assert host == LatencyHost("pi", "aarch64", "Pi 5", "1.20")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("down", "ended with exit code 255; it said: ssh: connect to host pi port 22: Connection refused"),
        ("rubbish", "printed 'Welcome to pi!' where one JSON document was expected"),
        ("endless", "printed a mebibyte and more"),
        ("full", r"failed on pi: OSError: \[Errno 28\] No space left on device"),
        ({"sha256": {"dense": "0", "pruned": "1"}}, "answered about other files than were sent"),
        ({"threads": 4}, "timed with .*'threads': 4.*; asked for"),
        ({"ratio": -1.0}, "measured .*; expected finite numbers above 0"),
        ({"dense_ms": None}, "expected finite numbers above 0"),
        ({"ratio_stderr": float("nan")}, "expected finite numbers above 0"),
        ({"architecture": None}, "architecture None; expected text"),
        ({"format": 2}, "no document of `autoprune time` in format 1"),
    ],
)
def test_what_it_does_wrong_is_one_clear_line(machine: TimingMachine, mode: Any, said: str) -> None:
    machine.will(mode)
    with pytest.raises(TimingError, match=said) as caught:
        TimingCommand(machine.command, 20.0).time(request())
    assert "\n" not in str(caught.value)


def test_one_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    script = f"sleep 600 & echo $! > {note}; wait"
    started = time.monotonic()
    with pytest.raises(TimingError, match=r"did not answer within 0.5 s \(latency.command_seconds\)"):
        TimingCommand(f"sh -c '{script}'", 0.5).time(request())
    assert time.monotonic() - started < 10
    child = int(note.read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            break
        time.sleep(0.02)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("what it started is still there")


def test_one_that_is_not_there_is_named() -> None:
    with pytest.raises(TimingError, match=r"cannot be started: No such file or directory; correct latency.command"):
        TimingCommand("no-such-program-here -", 1.0).time(request())


def test_a_program_need_not_read_what_it_is_given() -> None:
    end = run_program(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"], b"x" * 10_000_000, 20.0)
    assert (end.output, end.complaint, end.code, end.is_late) == (b"out\n", "last", 3, False)


# --- the timer


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x).relu())  # type: ignore[no-any-return]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def timer(machine: TimingMachine, said: list[str]) -> RemoteTimer:
    command = TimingCommand(machine.command, 20.0)
    return RemoteTimer(Net(64).eval(), torch.zeros(1, 4), TimingPlan(blocks=5), command, said.append, pauses=(0.0, 0.0))


def test_networks_are_timed_elsewhere_in_their_own_files(timer: RemoteTimer, machine: TimingMachine) -> None:
    assert timer.plan.host == ""
    assert timer.compare().ratio == 1.0
    assert timer.compare(Net(8).eval()).ratio < 0.6  # this machine goes by the size of the files
    assert (timer.host and timer.host.name, timer.plan.host) == ("pi", "pi")
    assert machine.calls == 2
    with pytest.raises(ValueError, match="expected at least 5 blocks of 1 call"):
        timer.compare(blocks=4)


def test_a_fault_is_told_and_tried_again_thrice_at_first_and_once_while_it_lasts(
    timer: RemoteTimer, machine: TimingMachine, said: list[str]
) -> None:
    timer.compare()
    machine.will("down")
    with pytest.raises(TimingError, match="Connection refused"):
        timer.compare()
    assert machine.calls == 1 + 3
    assert [line.endswith("; trying again in 0 s") for line in said] == [True, True]
    with pytest.raises(TimingError):
        timer.compare()
    assert machine.calls == 1 + 3 + 1
    machine.will("up")
    assert timer.compare().ratio == 1.0
    machine.will("rubbish")
    with pytest.raises(TimingError):
        timer.compare()
    assert machine.calls == 1 + 3 + 1 + 1 + 3


@pytest.mark.parametrize("other", [{"host": "pi2"}, {"architecture": "armv7l"}])
def test_another_machine_than_before_is_refused(
    timer: RemoteTimer, machine: TimingMachine, other: dict[str, str]
) -> None:
    timer.compare()
    machine.will(other)
    with pytest.raises(TimingError, match=r"timed on .*and this study's latency is that of pi \(aarch64, Pi 5"):
        timer.compare()
