"""Two processes do not time on a device at the same moment."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from autoprune.cost.timing_lock import timing_lock


def test_a_device_is_held_while_it_is_timed_on_and_free_again_afterwards(tmp_path: Path) -> None:
    with timing_lock("cpu", folder=tmp_path):
        (path,) = tmp_path.iterdir()
        other = FileLock(path, timeout=0)
        with pytest.raises(TimeoutError):
            other.acquire()
        with timing_lock("cuda", 0.01, tmp_path):
            assert len(list(tmp_path.iterdir())) == 2
    other.acquire()
    other.release()
    with pytest.raises(KeyError), timing_lock("cpu", folder=tmp_path):
        raise KeyError
    other.acquire()
    other.release()


def test_a_turn_that_does_not_come_is_told_and_the_timing_goes_on(tmp_path: Path) -> None:
    told = pytest.warns(RuntimeWarning, match=r"another process has been timing on cpu for 0.05 s")
    with timing_lock("cpu", folder=tmp_path), told, timing_lock("cpu", 0.05, tmp_path):
        timed = True
    assert timed


def test_a_folder_without_room_for_a_lock_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = pytest.warns(RuntimeWarning, match="no lock for timing on cpu")
    with told, timing_lock("cpu", 0.05, tmp_path / "file" / "below"):
        timed = True
    assert timed
