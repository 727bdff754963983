"""A whole study in which one candidate is crippled: it is stopped, recorded, and judged alike after a restart."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny import stored_trials, write_study
from torch import nn

from autoprune.cli.read_request import read_request
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Stopped, Trial
from autoprune.loggers.console import PlainDisplay
from autoprune.pruning.surgery import Pruner
from autoprune.report.content.summary import summarise
from autoprune.search.evaluation.evaluator import Evaluation, Evaluator
from autoprune.search.session import run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.view import open_view

CRIPPLED = 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def crippled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the last layer of one candidate against itself: it begins sure of the wrong class."""
    asked: list[int] = []
    call, prune = Evaluator.__call__, Pruner.prune

    def watched(self: Evaluator, candidate: Candidate, *rest: Any) -> Evaluation:
        asked.append(candidate.number)
        return call(self, candidate, *rest)

    def broken(self: Pruner, policy: PruningPolicy) -> nn.Module:
        network = prune(self, policy)
        if asked and asked[-1] >= CRIPPLED:
            with torch.no_grad():
                network.fc.weight.mul_(-20)
        return network

    monkeypatch.setattr(Evaluator, "__call__", watched)
    monkeypatch.setattr(Pruner, "prune", broken)


def go(folder: Path, trials: int, **stopping: Any) -> str:
    """Search a study whose fine-tune is gentle, so that where a candidate begins says where it ends."""
    shown = io.StringIO()
    values = {
        "trials": trials,
        "finetune": {"lr": 0.002, "compensation_images": 0},
        "stopping": {"images": 32, **stopping},
    }
    request = read_request(str(folder), folder.parent, values)
    run_search(request.spec, StudyFolder(folder), PlainDisplay(Console(file=shown, width=200)))
    return shown.getvalue()


def said(trial: Trial) -> tuple[str, str]:
    """Return how a trial ended, with the reason if it was stopped or would have been."""
    match trial.outcome:
        case Stopped(reason, _):
            return "stopped", reason
        case Completed(spared=spared):
            return "completed", spared
    return "else", ""


def test_a_crippled_candidate_is_stopped_recorded_and_told(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    lines = go(folder, CRIPPLED + 1)
    view = open_view(folder)
    last = view.trials[-1]
    assert isinstance(last.outcome, Stopped)
    assert "after recalibration foretells" in last.outcome.reason
    assert {"mflops", "recalibrated_loss"} <= set(last.outcome.measurement.values)
    assert {"loss", "midway_loss"}.isdisjoint(last.outcome.measurement.values)
    assert set(last.seconds) == {"ask", "prune", "recalibrate", "rung", "other"}
    assert stored_trials(folder)[-1]["state"] == "PRUNED"
    assert f"trial {CRIPPLED} random: stopped: loss" in lines
    summary = summarise(view)
    assert summary.counts["stopped"] >= 1
    assert summary.stopping.stopped == summary.counts["stopped"]
    assert summary.stopping.seconds_saved > 0
    assert summary.stopping.agreement["recalibrated_loss"] >= 0.5
    assert all(
        {"recalibrated_loss", "midway_loss"} <= set(trial.outcome.measurement.values)
        for trial in view.trials
        if isinstance(trial.outcome, Completed)
    )
    assert not any(isinstance(t.outcome, Stopped) for t in view.trials if t.candidate.is_baseline)


@pytest.mark.long
def test_a_study_in_pieces_is_judged_as_one_that_ran_through_and_checks_one_in_five(tmp_path: Path) -> None:
    through, pieces = (write_study(tmp_path / name / "studies") for name in ("through", "pieces"))
    total = CRIPPLED + 6
    go(through, total)
    for trials in (9, CRIPPLED + 2, total):
        go(pieces, trials)
    expected = [said(trial) for trial in open_view(through).trials]
    assert [said(trial) for trial in open_view(pieces).trials] == expected
    would_be = [how for how, reason in expected if reason]
    assert would_be[:5] == ["stopped"] * 4 + ["completed"]


@pytest.mark.long
def test_without_stopping_all_run_to_their_end_and_no_look_is_taken(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    go(folder, CRIPPLED + 1, enabled=False)
    trials = open_view(folder).trials
    assert [said(trial) for trial in trials] == [("completed", "")] * (CRIPPLED + 1)
    assert all("rung" not in trial.seconds for trial in trials)
    go(folder, CRIPPLED + 2)  # it may be turned on later
