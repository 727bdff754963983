"""A seed fixes a study: on a busy machine, or by a clock gone mad, every policy and every loss is the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny import write_study

from autoprune.cli.read_request import read_request
from autoprune.core.trial import Completed, Stopped
from autoprune.search.session import run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.spec_toml import read_resolved
from autoprune.study.view import open_view

TRIALS = 18
GIVEN: dict[str, Any] = {
    "trials": TRIALS,
    "seed": 3,  # of which proposals for a lower latency are drawn
    "sampler": "guided",
    "objectives": ["accuracy", "mflops", "latency_ms"],
    "finetune": {"epochs": 0.5, "batch_size": 32, "recalibration_images": 48},
}


class Heard:
    """Remember what was said, and show nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def searched(root: Path, **values: Any) -> tuple[Path, list[str]]:
    """Search a study of its own; return its folder and what was said."""
    folder, heard = write_study(root / "studies"), Heard()
    request = read_request(str(folder), folder.parent, {**GIVEN, **values})
    run_search(request.spec, StudyFolder(folder), heard)
    return folder, heard.said


def exactly(folder: Path) -> list[tuple[object, ...]]:
    """Return of each trial all that is not measured by a clock."""
    found: list[tuple[object, ...]] = []
    for trial in open_view(folder).trials:
        outcome = trial.outcome
        assert isinstance(outcome, Completed | Stopped), outcome
        values = {name: value for name, value in outcome.measurement.values.items() if name != "latency_ms"}
        found.append((trial.candidate, type(outcome), values, getattr(outcome, "correct", "")))
    return found


def curves(folder: Path) -> object:
    stored = json.loads((folder / "sensitivity.json").read_text(encoding="utf-8"))
    return {**stored, "seconds": None}


def spin() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    """Keep every core busy with more than one process."""
    context = multiprocessing.get_context("spawn")
    crowd = [context.Process(target=spin, daemon=True) for _ in range(processes)]
    for one in crowd:
        one.start()
    try:
        yield
    finally:
        for one in crowd:
            one.kill()
            one.join()
            one.close()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("idle"))[0]


@pytest.mark.long
@pytest.mark.usefixtures("process_is_left_as_it_was")
def test_a_seed_gives_the_same_policies_and_losses_idle_and_under_load(idle: Path, tmp_path: Path) -> None:
    with busy_machine(4):
        under_load, _ = searched(tmp_path)
    assert exactly(under_load) == exactly(idle)
    assert curves(under_load) == curves(idle)
    assert read_resolved(under_load / "resolved.toml").runtime == read_resolved(idle / "resolved.toml").runtime


@pytest.mark.usefixtures("process_is_left_as_it_was")
def test_no_clock_steers_a_search_without_a_limit_on_latency(
    idle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this machine jumps by anything from a microsecond to minutes between two looks at it."""
    jumps, now = random.Random(0), 0.0

    def mad() -> float:
        nonlocal now
        now += 10 ** jumps.uniform(-6, 2)
        return now

    monkeypatch.setattr(time, "perf_counter", mad)
    folder, _ = searched(tmp_path)
    monkeypatch.undo()
    assert exactly(folder) == exactly(idle)
    assert curves(folder) == curves(idle)


def test_what_trades_latency_is_among_the_proposals_and_nothing_was_timed_for_it(idle: Path) -> None:
    trials = open_view(idle).trials
    faster = [trial for trial in trials if trial.candidate.origin == "guided:faster"]
    assert faster, [trial.candidate.origin for trial in trials]
    assert all("latency_ms" not in trial.candidate.budget.limits for trial in faster)
    assert not StudyFolder(idle).latency_probes.exists()


@pytest.mark.long
def test_a_seed_of_its_own_gives_another_study(idle: Path, tmp_path: Path) -> None:
    folder, _ = searched(tmp_path, seed=1)
    assert exactly(folder) != exactly(idle)


@pytest.mark.usefixtures("process_is_left_as_it_was")
@pytest.mark.parametrize("asked", ["auto", "measured"])
def test_the_layout_is_decided_once_said_and_kept(tmp_path: Path, asked: str) -> None:
    runtime = {"device": "cpu", "precision": "fp32", "layout": asked, "threads": 1}
    folder, said = searched(tmp_path, trials=1, runtime=runtime)
    decided = read_resolved(folder / "resolved.toml").runtime.layout
    assert [line for line in said if line.startswith("memory layout: ")] == [
        f"memory layout: {decided}, as usual for images of 8×8 pixels in fp32; --layout names another"
        if asked == "auto"
        else f"memory layout: {decided}, in which a few training steps took less time here"
    ]
    heard = Heard()
    for again in ("auto", "measured", decided):
        request = read_request(
            str(folder), folder.parent, {**GIVEN, "trials": 1, "runtime": {**runtime, "layout": again}}
        )
        run_search(request.spec, StudyFolder(folder), heard)
    assert not [line for line in heard.said if line.startswith("memory layout")]
    assert read_resolved(folder / "resolved.toml").runtime.layout == decided
