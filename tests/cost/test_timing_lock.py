"""Two processes do not time on a device at the same moment, and those that train there rest meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoprune.core import quiet
from autoprune.core.quiet import Quiet
from autoprune.cost.timing_lock import timing_lock

STEPS = """
import sys, time
from pathlib import Path
from autoprune.core.quiet import Quiet
quiet = Quiet("cpu", Path(sys.argv[1]))
with quiet.work():
    while True:
        quiet.rest()
        time.sleep(0.005)
        print(time.monotonic(), flush=True)
"""
TIMES = """
import sys, time
from pathlib import Path
from autoprune.cost.timing_lock import timing_lock
with timing_lock("cpu", folder=Path(sys.argv[1])):
    print("timing", flush=True)
    time.sleep(60)
"""


@contextmanager
def process(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            started.stdout.readline()
            yield started
        finally:
            started.kill()


def test_a_device_is_held_while_it_is_timed_on_and_free_again_afterwards(tmp_path: Path) -> None:
    other = Quiet("cpu", tmp_path)
    with timing_lock("cpu", folder=tmp_path):
        with other.timing(0.01, 0.01) as (has_turn, _):
            assert not has_turn
        with timing_lock("cuda", 0.01, tmp_path):
            assert len(list(tmp_path.iterdir())) == 4
    with pytest.raises(KeyError), timing_lock("cpu", folder=tmp_path):
        raise KeyError
    with other.timing(0.01, 0.01) as both:
        assert both == (True, True)
    other.close()


def test_who_trains_rests_between_two_steps_while_another_times(tmp_path: Path) -> None:
    """Every step that is written down ended before the timing began, or after its end."""
    with process(STEPS, tmp_path) as trains:
        spans = []
        for _ in range(5):
            time.sleep(0.05)
            with timing_lock("cpu", folder=tmp_path):
                spans.append((time.monotonic(), time.sleep(0.2), time.monotonic()))
        time.sleep(0.1)
        trains.kill()
        assert trains.stdout is not None
        ends = [float(line) for line in trains.stdout.read().splitlines()]
    assert len(ends) > 20, "it goes on between two timings"
    assert not [end for end in ends for begin, _, stop in spans if begin < end < stop]


def test_who_times_and_dies_or_is_stopped_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(TIMES, tmp_path) as times:
        trains = Quiet("cpu", tmp_path)
        times.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(quiet, "REST_SECONDS", 0.1)
        trains.rest()
        times.kill()
        times.wait()
        monkeypatch.setattr(quiet, "REST_SECONDS", 60.0)
        trains.rest()
        trains.close()


def test_who_has_left_is_not_waited_for_and_who_never_rests_only_for_so_long(tmp_path: Path) -> None:
    works, times = Quiet("cpu", tmp_path), Quiet("cpu", tmp_path)
    with works.work():
        works.rest()
        with works.work():
            works.rest()
        with times.timing(1.0, 0.05) as both:
            assert both == (True, False)
    works.rest()  # a single step, as of a program that then does something else
    with times.timing(1.0, 0.05) as both:
        assert both == (True, True)
    works.close()
    times.close()


def test_nothing_is_held_after_training_and_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    quiet._quiet_of.cache_clear()
    with quiet.work("cpu"):
        quiet.rest("cpu")
    times = Quiet("cpu")
    with times.timing(0.01, 0.01) as both:
        assert both == (True, True)
    times.close()
    quiet._quiet_of.cache_clear()


def test_a_forked_process_has_its_own_quiet() -> None:
    assert quiet._quiet_of("cpu", os.getpid()) is quiet._quiet_of("cpu", os.getpid())
    assert quiet._quiet_of("cpu", os.getpid()) is not quiet._quiet_of("cpu", 1)


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
