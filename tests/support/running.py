"""Searches that run beside a test: started, waited for, looked at while they are under way."""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny import command, environment, stored_trials

from autoprune.study.view import open_view

PATIENCE = 120.0
ALIKE = ("--no-stopping", "--set", "sensitivity.enabled=false")  # nothing depends on who finished before


@contextmanager
def searching(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Search beside the test; what still runs afterwards is killed."""
    process = subprocess.Popen(
        command("search", *arguments),
        env=env or environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(is_so: Any, process: subprocess.Popen[str] | None = None) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        assert process is None or process.poll() is None, f"it ended early: {process.communicate()[1]}"
        time.sleep(0.05)


def told(folder: Path) -> int:
    """Return how many trials are finished."""
    try:
        return sum(bool(trial["outcome"]) for trial in stored_trials(folder))
    except sqlite3.OperationalError:  # its tables are not made yet
        return 0


def losses(folder: Path, storage: str | None = None) -> dict[int, float]:
    """Return number → loss of the trials, all of which completed."""
    trials = open_view(folder, storage).trials
    return {trial.number: trial.outcome.measurement["loss"] for trial in trials}  # type: ignore[union-attr]
