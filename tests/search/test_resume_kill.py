"""A search killed again and again, as users' machines do, ends where an undisturbed one ends."""

from __future__ import annotations

import queue
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kept_weights import kept_along
from tiny import call, command, environment, finished, stored_trials, write_study

TRIALS, KILLS = 14, 10
EPOCHS = 20  # a trial of a few tenths of a second, so that kills fall within one
PATIENCE = 60.0


class Search:
    """A running ``autoprune search``, with its lines as they come."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            command("search", *arguments),
            env=environment(),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, text: str) -> bool:
        """Wait for a line that holds ``text``; return whether it came before the process ended."""
        deadline = time.monotonic() + PATIENCE
        while (line := self._queue.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
            self.lines.append(line)
            if text in line:
                return True
        return False

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and all of stderr."""
        self.wait_for("no line holds this: \0")
        return self.process.wait(PATIENCE), "".join(self.lines)


@contextmanager
def running(*arguments: str | Path) -> Iterator[Search]:
    search = Search(*arguments)
    try:
        yield search
    finally:
        search.process.kill()
        search.process.wait()
        search._reader.join()
        assert search.process.stderr is not None
        search.process.stderr.close()


def seconds_of_last_trial(folder: Path) -> float:
    """Return what a trial takes here, so that one kill does not let many pass on a fast machine."""
    told = [trial for trial in stored_trials(folder) if trial["outcome"]]
    return float(sum(told[-1]["outcome"]["seconds"].values()))


def run_undisturbed(folder: Path) -> list[tuple[int, str]]:
    """Search in this process, which is imported already; policies do not depend on who searches."""
    import torch
    from rich.console import Console

    from autoprune.cli.read_request import read_request
    from autoprune.loggers.console import PlainDisplay
    from autoprune.search.session import run_search
    from autoprune.study.folder import StudyFolder

    before = torch.get_num_threads()
    request = read_request(str(folder), folder.parent, {})
    run_search(request.spec, StudyFolder(folder), PlainDisplay(Console(quiet=True)))
    torch.set_num_threads(before)
    return finished(folder)


def kept_weights(folder: Path) -> set[str]:
    return {path.name for path in (folder / "weights").iterdir()}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_search_killed_ten_times_at_random_ends_where_an_undisturbed_one_ends(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=TRIALS, epochs=EPOCHS)
    stream = random.Random(20261121)
    seen: list[int] = []
    within_trials = 0
    for kill in range(KILLS):
        with running(folder) as search:
            if kill in (1, 4, 7):  # while it still prepares: imports, data, training, groups, scores, timing
                time.sleep(stream.uniform(0.3, 3.0))
            else:  # within or between trials
                search.wait_for("] trial ")
                time.sleep(stream.uniform(0.0, 0.9) * seconds_of_last_trial(folder))
            search.process.kill()
            code, errors = search.end()
        assert code == -signal.SIGKILL, f"ended by itself before kill {kill}: {errors}"
        assert "Traceback" not in errors
        numbers = [number for number, _ in finished(folder)] if (folder / "study.db").exists() else []
        assert numbers == list(range(len(numbers))), "a number was lost or repeated"
        assert len(numbers) >= (seen[-1] if seen else 0), "something stored was lost"
        within_trials += bool(numbers) and len(numbers) < TRIALS
        seen.append(len(numbers))
    assert within_trials >= 5, f"too few kills fell into the search: {seen}"

    last = call("search", folder)
    assert last.returncode == 0, last.stderr
    assert f"{TRIALS} finished" in last.stdout

    expected = run_undisturbed(write_study(tmp_path / "undisturbed", trials=TRIALS, epochs=0))
    assert finished(folder) == expected
    assert [number for number, _ in expected] == list(range(TRIALS))
    assert all(
        trial["outcome"]["outcome"]["kind"] in ("completed", "stopped")
        for trial in stored_trials(folder)
        if trial["outcome"]
    )
    worth_their_place = {f"{number}.safetensors" for number in kept_along(folder)}
    assert kept_weights(folder) == worth_their_place, "what kills left of the weights was put right"
    again = {trial["number"] for trial in stored_trials(folder) if not trial["outcome"] and "number" in trial}
    assert again <= set(range(TRIALS)), "what was lost was asked again"


@pytest.mark.long
def test_an_interrupt_stores_everything_says_how_to_go_on_and_a_second_run_does(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=9, epochs=EPOCHS)
    with running(folder, "--threads", "1") as search:
        assert search.wait_for("[2/9]")
        search.process.send_signal(signal.SIGINT)
        code, errors = search.end()
    assert code == 130
    assert "interrupted; every finished trial is stored" in errors
    assert f"autoprune search {folder} --threads 1" in errors
    assert "Traceback" not in errors
    stored = finished(folder)
    assert [number for number, _ in stored] == list(range(len(stored)))
    assert 2 <= len(stored) < 9

    last = call("search", folder, "--threads", "1")
    assert last.returncode == 0, last.stderr
    assert finished(folder)[: len(stored)] == stored
    assert [number for number, _ in finished(folder)] == list(range(9))


@pytest.mark.long
@pytest.mark.parametrize("polite", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_polite_kill_while_it_prepares_ends_cleanly_and_with_0(tmp_path: Path, polite: signal.Signals) -> None:
    folder = write_study(tmp_path / "studies", trials=2)
    with running(folder) as search:
        assert search.wait_for("training the dense network")
        search.process.send_signal(polite)
        code, errors = search.end()
    assert code == 0
    assert "Resume with" in errors
    assert "Traceback" not in errors
    assert run_undisturbed(folder) == finished(folder)
    assert [number for number, _ in finished(folder)] == [0, 1]
