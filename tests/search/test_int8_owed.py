"""What finished networks lose in int8: measured at the end of a search for those worth keeping, and on their rows."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import write_task
from tiny_study import tiny_spec

from autoprune.analysis.weight_retention import retained_trials
from autoprune.core.budget import Budget
from autoprune.core.int8_loss import INT8_GAIN, Int8Loss
from autoprune.core.trial import Trial
from autoprune.export.onnx import missing_packages
from autoprune.loggers.events import EventDisplay
from autoprune.report.content.summary import summarise
from autoprune.report.content.terminal import front_text
from autoprune.report.page.data import page_document
from autoprune.search import int8_owed
from autoprune.search.session import run_search
from autoprune.search.taking_turns import Turn
from autoprune.search.trial_weights import stored_numbers
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.later_int8 import with_int8_losses
from autoprune.study.spec import StudySpec
from autoprune.study.study_trial import StudyTrial
from autoprune.study.view import StudyView, open_view

pytestmark = [
    pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}"),
    pytest.mark.usefixtures("process_is_left_as_it_was"),
]


class Killed(BaseException):
    """Stands for a kill."""


def spec_in(folder: Path, form: str, trials: int = 3) -> StudySpec:
    latency = {"runtime": "onnxruntime", "format": form, "blocks": 5, "calls": 1}
    task = write_task(folder)
    return tiny_spec(task, latency=latency, trials=trials, sampler="random", budget={"mflops": "60%"})


def search(spec: StudySpec, study: StudyFolder) -> list[str]:
    said: list[str] = []
    run_search(spec, study, EventDisplay(lambda event: said.append(event.text)))
    return said


def known(view: StudyView) -> set[int]:
    return {one.number for one in view.trials if INT8_GAIN in getattr(one.outcome, "measurement").values}  # noqa: B009


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Return a study that was killed after the first of its networks was scored in int8."""
    folder = tmp_path_factory.mktemp("owed")
    study, real = StudyFolder(folder / "tiny"), int8_owed._Scorer.loss_of
    scored: list[int] = []

    def once(scorer: Any, number: int) -> Int8Loss:
        if scored:
            raise Killed
        scored.append(number)
        return real(scorer, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_owed._Scorer, "loss_of", once)
        with pytest.raises(Killed):
            search(spec_in(folder, "int8"), study)
    assert known(open_view(study.path)) == set(scored)
    return study


def test_the_same_command_scores_what_a_kill_left_out(study: StudyFolder) -> None:
    left = len(stored_numbers(study)) - 1
    assert left > 0
    spec = spec_in(study.path.parent, "int8")
    assert any(f"scoring {left} trial" in line for line in search(spec, study))
    view = open_view(study.path)
    worth = retained_trials(view.trials, view.spec.objectives, view.budget, view.spec.quality, view.dense)
    assert known(view) == worth == set(stored_numbers(study))
    assert not any("scoring" in line for line in search(spec, study))


def test_a_worker_whose_search_has_ended_takes_part_in_another_s_scoring(tmp_path: Path) -> None:
    """The other has the turn, here in a thread, and computes nothing until this worker has."""
    folder, has_helped, found = tmp_path / "tiny", threading.Event(), list[Any]()
    study = StudyFolder(folder)
    folder.mkdir()
    numbers, here = [{"trial": number} for number in range(3)], list[int]()

    def slow(item: Any) -> Any:
        has_helped.wait(20)
        return Int8Loss(0.0, 0.1, 8).to_json()

    def another(is_under_way: threading.Event) -> None:
        work = DividedWork(study.divided_int8)
        with closing(Turn(study.quantising)) as turn, work.open():
            turn.take()
            is_under_way.set()
            found.extend(work.results(int8_owed.INT8, numbers, slow))  # type: ignore[arg-type]

    def scored(scorer: Any, number: int) -> Int8Loss:
        here.append(number)
        has_helped.set()
        return Int8Loss(0.5, 0.1, 8)

    began = threading.Event()
    thread = threading.Thread(target=another, args=(began,))
    thread.start()
    began.wait(20)
    prepared = SimpleNamespace(spec=spec_in(tmp_path / "code", "int8"), folder=study, dense=None)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8_owed._Scorer, "loss_of", scored)
        patch.setattr(int8_owed, "int8_owed", lambda *args: [])
        assert int8_owed.measure_int8(None, prepared, Budget(), said.append) == 0  # type: ignore[arg-type]
    thread.join()
    assert here, "it took part"
    assert [one["gain"] for one in found] == [0.5 if number in here else 0.0 for number in range(3)]
    assert said == ["taking part in scoring trials in int8"]


def test_the_loss_is_on_the_row_wherever_that_is_shown(study: StudyFolder) -> None:
    view = open_view(study.path)
    trial = next(one for one in view.trials if one.number in known(view))
    told = StudyTrial.of(trial).to_dict()
    assert isinstance(told[INT8_GAIN], float)
    assert told[f"{INT8_GAIN}_stderr"] >= 0  # type: ignore[operator]
    summary = summarise(view)
    assert summary.has_int8
    row: Any = next(one for one in summary.to_json()["rows"] if one["trial"] == trial.number)  # type: ignore[union-attr,index,call-overload]
    assert row["values"][INT8_GAIN] == told[INT8_GAIN]
    shown = front_text(summary, 140)
    assert "in int8" in shown
    assert "Sizes are of the file in int8" in shown
    assert INT8_GAIN in page_document(view, summary)["trials"]["values"]  # type: ignore[index]


def test_nothing_is_owed_in_float32(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "tiny")
    assert not any("in int8" in line for line in search(spec_in(tmp_path, "fp32", trials=1), study))
    view = open_view(study.path)
    assert not known(view)
    assert not summarise(view).has_int8


def test_what_cannot_be_quantised_is_said_once_and_has_no_number(study: StudyFolder) -> None:
    failed = Int8Loss(failure="it crashed (signal SIGSEGV)")
    assert Int8Loss.from_json(failed.to_json()) == failed
    trial: Trial = open_view(study.path).trials[0]
    text = '{"gain": 0, "stderr": 0, "examples": 0, "failure": "it crashed"}'
    plain = with_int8_losses([trial], {})[0]
    assert with_int8_losses([plain], {f"int8:{trial.number}": text}) == [plain]
    with pytest.raises(ValueError, match="expected finite numbers"):
        Int8Loss(float("nan"), 0.1, 8)
