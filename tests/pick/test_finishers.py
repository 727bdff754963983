"""Contenders that are fine-tuned by processes of their own: the same network to the last bit, and no part is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from cards import finish_to_json
from rich.console import Console
from safetensors.torch import load_file
from tiny import write_study
from torch import Tensor, equal

from autoprune.cli.read_request import read_request
from autoprune.core.trial import Completed
from autoprune.errors import EvaluationError, UsageError
from autoprune.loggers.console import PlainDisplay
from autoprune.pick import finisher_process, finishers
from autoprune.search.session import run_search
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder
from autoprune.study.view import StudyView, open_view

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")
SAME = ("trial", "validation", "test", "dense", "uniform", "contenders", "borders")
TWO: tuple[Mapping[str, str], ...] = ({}, {})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("finishers") / "studies", trials=6)
    request = read_request(str(folder), folder.parent, {})
    run_search(request.spec, StudyFolder(folder), PlainDisplay(Console(quiet=True)))
    return folder


def picked(folder: Path, said: list[str], workers: tuple[Mapping[str, str], ...] = (), notify: Any = None) -> Any:
    """Return the card without what is timed, and the weights, of a pick among three contenders."""
    view = open_view(folder)
    trials = [trial for trial in view.trials if isinstance(trial.outcome, Completed)][-3:]
    card, target = finish_to_json(view, trials, view.budget, notify or said.append, workers=workers)
    values = json.loads(json.dumps({name: card[name] for name in SAME if name in card}))
    return without_times(values), load_file(target / "model.safetensors")


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if "latency" not in name}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def same(one: tuple[Any, dict[str, Tensor]], other: tuple[Any, dict[str, Tensor]]) -> bool:
    assert one[0] == other[0]
    return one[1].keys() == other[1].keys() and all(equal(one[1][name], other[1][name]) for name in one[1])


@pytest.fixture(scope="module")
def sequential(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return picked(shutil.copytree(study, tmp_path_factory.mktemp("one") / "study"), [])


@pytest.mark.long
def test_two_processes_come_to_the_network_of_one_to_the_last_bit(study: Path, sequential: Any, tmp_path: Path) -> None:
    said = list[str]()
    folder = shutil.copytree(study, tmp_path / "study")
    assert same(picked(folder, said, TWO), sequential)
    assert "fine-tuning in 2 processes" in said
    assert sequential[0]["uniform"] is not None
    assert len(sequential[0]["contenders"]) == 3
    assert not (folder / "picked" / ".work").exists()


@pytest.mark.long
def test_a_process_that_is_killed_is_said_and_the_same_pick_goes_on(
    study: Path, sequential: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, started, said = shutil.copytree(study, tmp_path / "study"), list[int](), list[str]()
    start = finishers.Finishers._start

    def remembering(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        started.append(self._finishers[-1].process.pid)

    def kill_at_the_second_part(sentence: str) -> None:
        said.append(sentence)
        if sum("25 % of the fine-tune" in each for each in said) == 2:
            os.kill(started[0], signal.SIGKILL)

    monkeypatch.setattr(finishers.Finishers, "_start", remembering)
    with pytest.raises(EvaluationError, match=r"ended \(killed by signal 9\).*the same command goes on"):
        picked(folder, said, TWO, kill_at_the_second_part)
    said.clear()
    assert same(picked(folder, said, TWO), sequential)
    assert any("going on with a pick that was cut off" in each for each in said)
    assert sum("25 % of the fine-tune" in each for each in said) < 4, "parts that were finished are not repeated"


def test_a_process_that_would_train_otherwise_is_refused(study: Path) -> None:
    view: StudyView = open_view(study)
    prepared = prepare_study(view.spec, StudyFolder(study), lambda message: None)
    maker = build_maker(prepared, finetune_settings(prepared.spec, epochs=1))
    order = {
        "folder": str(study),
        "settings": asdict(maker.settings),
        "runtime": {**maker.runtime.describe(), "threads": 64},
    }
    with pytest.raises(EvaluationError, match=r"would train otherwise.*threads: 1, 64"):
        finisher_process._maker(order, prepared.spec)


def test_workers_that_make_no_sense_are_refused(study: Path) -> None:
    from autoprune import Study
    from autoprune.cli.pick import _workers

    with pytest.raises(UsageError, match="expected 1 or more"):
        Study(study).pick(workers=0)
    view = open_view(study)
    with pytest.raises(UsageError, match="measures no number"):
        _workers(view, "auto")
    assert _workers(view, "1") == [{}]
    assert _workers(view, "3") == [{}, {}, {}]
