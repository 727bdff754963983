"""How many threads a process takes that nobody told."""

from __future__ import annotations

import pytest

from autoprune.core import cores
from autoprune.core.cores import default_threads, while_others_wait


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    monkeypatch.setattr(cores, "free_cores", lambda count: count)  # nobody else is there
    for name in ("OMP_NUM_THREADS", "AUTOPRUNE_THREADS_TOGETHER"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "threads"), [("", 8), ("3", 3), ("4,2", 4), ("64", 8), ("0", 8), ("many", 8), (" 2 ", 2)]
)
def test_the_environment_says_how_many_and_never_more_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, given: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert default_threads() == threads
    with while_others_wait():
        assert default_threads() == threads, "without other workers nothing changes"


def test_one_of_several_workers_has_the_threads_of_all_as_long_as_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("AUTOPRUNE_THREADS_TOGETHER", "6")
    assert default_threads() == 2
    with while_others_wait():
        assert default_threads() == 6
    assert default_threads() == 2
