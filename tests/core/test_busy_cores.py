"""What other programs use of the cores, from readings made up, and how many threads that leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from autoprune.core import busy_cores, cores

CORES = 4


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(CORES)), raising=False)
    monkeypatch.setattr(cores, "available_cores", lambda: CORES)
    for name in ("OMP_NUM_THREADS", "AUTOPRUNE_THREADS_TOGETHER"):
        monkeypatch.delenv(name, raising=False)
    busy_cores.busy_cores.cache_clear()
    yield
    busy_cores.busy_cores.cache_clear()


def readings(monkeypatch: pytest.MonkeyPatch, *shares: float, own_seconds: float = 0.0) -> float | None:
    """Return what is found where each core was in use for a share of the time, and a fifth one of others' always."""
    shares = (*shares, 1.0)
    idle = [f"cpu{n} 100 0 50 9000 20 0 0 0 7 0" for n in range(len(shares))]
    later = [
        f"cpu{n} {100 + round(20 * share)} 0 {50 + round(10 * share)} {9000 + 30 - round(30 * share)} 20 0 0 0 7 0"
        for n, share in enumerate(shares)
    ]
    texts = iter(["\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "intr 5"]) for lines in (idle, later)])
    clock = iter([1.0, 1.0 + own_seconds])
    monkeypatch.setattr(busy_cores.time, "process_time", lambda: next(clock))
    return busy_cores.watched(lambda: next(texts), lambda seconds: None)


@pytest.mark.parametrize(
    ("shares", "busy"), [((0, 0, 0, 0), 0), ((1, 0, 0, 0), 1), ((1, 1, 0.5, 0), 2.5), ((1, 1, 1, 1), 4)]
)
def test_the_time_that_this_process_s_cores_were_in_use_is_counted(
    monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], busy: float
) -> None:
    assert readings(monkeypatch, *shares) == pytest.approx(busy, abs=0.05)


def test_what_this_process_used_itself_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert readings(monkeypatch, 1, 0.5, 0, 0, own_seconds=0.3) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("text", ["", "cpu0 1 2", "cpu0 a b c d e"])
def test_a_machine_that_does_not_count_so_is_not_known(text: str) -> None:
    assert busy_cores.watched(lambda: text, lambda seconds: None) is None


def test_a_machine_without_such_a_file_is_not_known() -> None:
    def read() -> str:
        raise FileNotFoundError

    assert busy_cores.watched(read, lambda seconds: None) is None


@pytest.mark.parametrize(
    ("busy", "threads"), [(None, 4), (0.0, 4), (0.2, 4), (0.4, 3), (1.0, 3), (1.3, 2), (2.9, 1), (4.0, 1)]
)
def test_a_core_that_others_use_gets_no_thread(
    monkeypatch: pytest.MonkeyPatch, busy: float | None, threads: int
) -> None:
    monkeypatch.setattr(busy_cores, "watched", lambda read, pause: busy)
    assert cores.default_threads() == threads
    monkeypatch.setattr(busy_cores, "watched", lambda read, pause: 0.0)
    assert cores.default_threads() == threads, "it is decided once in a process"
    assert cores.threads_of_each(2) == max(1, threads // 2)
    note = cores.fewer_threads_note()
    assert (f"{threads} thread" in note and "--threads 4" in note) if threads < CORES else note == ""


def test_what_the_environment_says_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_cores, "watched", lambda read, pause: pytest.fail("measured"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert cores.default_threads() == 3
    assert cores.threads_of_each(2) == 3
    assert cores.fewer_threads_note() == ""
