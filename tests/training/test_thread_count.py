"""The threads of a process keep to the cores that others leave free, in simulated time, if nobody has said how many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from autoprune.core.busy_cores import BusyWatch
from autoprune.core.cores import while_others_wait
from autoprune.core.notify import silent
from autoprune.training.device import thread_count
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.thread_count import FIRST_LOOK_SECONDS, LOOK_SECONDS, ThreadCount

CORES = 4


@dataclass
class Machine(BusyWatch):
    """A machine whose load is said, and how many threads were set."""

    used: float | None = 0.0
    seconds: float = 0.0
    threads: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def since_last(self) -> float | None:
        return self.used


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_count, "available_cores", lambda: CORES)
    monkeypatch.setattr(thread_count, "default_threads", lambda: CORES)
    monkeypatch.setattr(torch, "set_num_threads", found.threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: found.threads[-1])
    return found


def begun(machine: Machine, wanted: int = 0) -> ThreadCount:
    count = ThreadCount(lambda: machine.seconds, lambda: machine)
    count.begin(wanted, machine.said.append)
    return count


def looks(count: ThreadCount, machine: Machine, *loads: float | None) -> list[int]:
    """Return how many threads there are after each of some looks."""
    found = []
    for machine.used in loads:
        machine.seconds += LOOK_SECONDS
        count.keep()
        found.append(machine.threads[-1])
    return found


def test_a_core_that_others_use_loses_its_thread_and_gets_it_back(machine: Machine) -> None:
    count = begun(machine)
    assert looks(count, machine, 0.1, 0.4, 0.7, 0.4, 1.0, 2.4, 9.0, None, 1.0, 0.2) == [4, 4, 3, 3, 3, 2, 1, 1, 3, 4]
    assert machine.threads == [4, 3, 2, 1, 3, 4], "it is set only where it changes"
    assert machine.said[0].startswith("other programs use about 0.7 of the 4 cores now, so this process goes on with 3")
    assert "with 1 thread;" in machine.said[2]


def test_it_looks_after_two_seconds_and_then_every_ten(machine: Machine) -> None:
    count = begun(machine)
    machine.used, machine.seconds = 1.0, FIRST_LOOK_SECONDS - 0.1
    count.keep()
    assert machine.threads == [4]
    machine.seconds = FIRST_LOOK_SECONDS
    count.keep()
    assert machine.threads == [4, 3]
    machine.used = 2.0
    for _ in range(9):
        machine.seconds += LOOK_SECONDS / 10
        count.keep()
    assert machine.threads == [4, 3]
    machine.seconds += LOOK_SECONDS / 10
    count.keep()
    assert machine.threads == [4, 3, 2]


def test_a_number_that_was_given_stays(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert looks(begun(machine, 3), machine, 2.0, 4.0) == [3, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert looks(begun(machine), machine, 2.0, 4.0) == [4, 4]
    assert machine.said == []


def test_threads_lent_by_workers_that_wait_are_given_back_to_other_programs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AUTOPRUNE_THREADS_TOGETHER", "4")
    with while_others_wait():
        assert looks(begun(machine), machine, 0.0, 2.0, 4.0, 0.0) == [4, 2, 1, 4]
    assert looks(begun(machine), machine, 2.0, 4.0) == [4, 4], "its own it keeps"


def test_before_it_begins_nothing_is_set(machine: Machine) -> None:
    ThreadCount(lambda: 1e9, lambda: machine).keep()
    assert machine.threads == []


@pytest.fixture
def threads_are_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    thread_count.OF_PROCESS.begin(before, silent)


@pytest.mark.usefixtures("threads_are_put_back")
def test_a_runtime_keeps_to_it_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[bool]()
    monkeypatch.setattr(thread_count.OF_PROCESS, "keep", lambda: kept.append(True))
    runtime = Runtime(threads=1)
    runtime.apply_threads()
    assert torch.get_num_threads() == 1
    runtime.answer(lambda network, batch: network(batch), torch.nn.Identity(), torch.ones(1))
    assert kept == [True]
