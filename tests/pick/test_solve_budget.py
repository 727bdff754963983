"""A pick for a budget that no trial lies near: solved, stored, finished, and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import write_study

import autoprune
import autoprune.pick.finish
from autoprune.cli.read_request import read_request
from autoprune.core.trial import Completed
from autoprune.errors import NothingFitsError
from autoprune.loggers.console import PlainDisplay
from autoprune.pick.choose_trials import Wish, choose_trials
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.session import run_search
from autoprune.search.setup.build_evaluator import build_maker
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.folder import StudyFolder
from autoprune.study.screened_file import read_screening
from autoprune.study.view import open_view
from autoprune.training.settings import FinetuneSettings

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")
ASKED = {"mflops": "38%"}  # the trials lie at 60 %


@pytest.fixture(scope="module")
def screened(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rich.console import Console

    folder = write_study(tmp_path_factory.mktemp("solved") / "studies")
    values = {
        "trials": 2,
        "sampler": "guided",
        "screening": {"enabled": True, "networks": 24, "images": 48},
        "finetune": {"epochs": 1.0, "compensation_images": 48},
    }
    before = torch.get_num_threads()
    run_search(
        read_request(str(folder), folder.parent, values).spec, StudyFolder(folder), PlainDisplay(Console(quiet=True))
    )
    torch.set_num_threads(before)
    return folder


def test_a_pick_for_a_budget_without_a_trial_is_solved_stored_and_finished(screened: Path) -> None:
    view = open_view(screened)
    limit = 0.38 * view.dense["mflops"]
    assert choose_trials(view, Wish(ASKED))[1] == [], "nothing near"
    study = autoprune.Study(screened)
    picked = study.pick(ASKED, epochs=1)
    trial = open_view(screened).trials[-1]
    assert trial.candidate.is_picked
    assert isinstance(trial.outcome, Completed)
    measured = trial.outcome.measurement
    assert 0.8 * limit <= measured["mflops"] <= limit
    assert set(measured.values) >= {"accuracy", "loss", "latency_ms"}
    assert trial.seconds["solve"] > 0
    assert picked.card.scores.validation["mflops"] == measured["mflops"]
    assert picked.folder.name == str(trial.number)

    again = open_view(screened)
    assert choose_trials(again, Wish(ASKED))[1] == [trial], "the same network the next time"
    assert study.pick(ASKED, epochs=1).folder == picked.folder
    assert len(open_view(screened).trials) == len(again.trials), "and no further trial"


def test_a_study_goes_on_after_a_pick_and_reports_the_screening(screened: Path) -> None:
    from autoprune.report.content.summary import summarise
    from autoprune.report.live import take_snapshot
    from autoprune.report.page.data import page_document

    view = open_view(screened)
    summary = summarise(view)
    assert summary.screening is not None
    looked = len(read_screening(screened / "screened.jsonl").networks)
    assert summary.screening.networks == looked >= 10
    assert summary.to_json()["screening"]["networks"] == looked  # type: ignore[index, call-overload]
    assert any(note.startswith(f"{looked} networks were looked at without training") for note in summary.notes)
    curve = page_document(view, summary)["screened"]["mflops"]  # type: ignore[index]
    assert curve["cost"] == sorted(curve["cost"])
    assert curve["rise"] == sorted(curve["rise"], reverse=True)
    assert any(value is not None for value in curve["quality"])
    shot = take_snapshot(screened)
    assert f"{looked} networks looked at without training" in shot.progress_line()
    assert shot.to_json()["screened"] == looked


def test_a_budget_below_all_that_was_screened_is_told_as_before(screened: Path) -> None:
    with pytest.raises(NothingFitsError, match="the nearest is trial"):
        choose_trials(open_view(screened), Wish({"mflops": "1%"}))


def test_with_a_limit_of_quality_trials_alone_count(screened: Path) -> None:
    from autoprune.analysis.quality_limits import QualityLimits

    view = open_view(screened)
    wish = Wish({"mflops": "90%"}, quality=lambda qualities, dense: QualityLimits({qualities[0]: 0.01}))
    assert choose_trials(view, wish)[1] != []


@pytest.mark.parametrize(("accuracy", "epochs", "is_solved"), [(0.0, 0, False), (2.0, 0, True), (2.0, 1, False)])
def test_without_training_a_better_screened_network_is_preferred_to_a_trial_on_the_budget(
    screened: Path, tmp_path: Path, accuracy: float, epochs: int, is_solved: bool
) -> None:
    folder = tmp_path / screened.name
    shutil.copytree(screened, folder)
    lines = [json.loads(line) for line in (folder / "screened.jsonl").read_text().splitlines()]
    for look in (look for line in lines for look in line.get("looks", []) if look.get("quality")):
        look["quality"]["values"]["accuracy"] = accuracy
    (folder / "screened.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    chosen = choose_trials(open_view(folder), Wish({"mflops": "61%"}, epochs=epochs))[1]
    assert (chosen == []) is is_solved


def test_without_training_what_was_solved_for_is_refitted_on_more_examples(
    screened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(screened, tmp_path / screened.name))
    tune = open_view(folder).spec.finetune
    assert tune.untrained_finish_images > tune.untrained_images
    refits, own = list[int | None](), build_maker

    def noted(study: PreparedStudy, settings: FinetuneSettings, images: int | None = None) -> NetworkMaker:
        refits.append(images)
        return own(study, settings, images)

    monkeypatch.setattr(autoprune.pick.finish, "build_maker", noted)
    picked = autoprune.Study(folder).pick(ASKED, epochs=0, force=True)
    assert refits[-1] == tune.untrained_finish_images
    trial = open_view(folder).trials[-1]
    assert trial.candidate.is_picked
    assert picked.folder.name == str(trial.number)
    assert picked.card.scores.validation["mflops"] == trial.outcome.measurement["mflops"]  # type: ignore[union-attr]
