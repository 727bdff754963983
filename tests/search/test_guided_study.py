"""A whole study by the guided sampler: it goes on where it was, and takes in what an older study lacks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_study

from autoprune.cli.read_request import read_request
from autoprune.core.metrics import ACCURACY
from autoprune.core.sensitivity import Sensitivity
from autoprune.core.trial import Completed, Failed, Trial
from autoprune.search.session import run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.view import open_view


class Silent:
    """Show nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def go(folder: Path, trials: int, **values: Any) -> list[Trial]:
    given = {"trials": trials, "sampler": "guided", **values}
    run_search(read_request(str(folder), folder.parent, given).spec, StudyFolder(folder), Silent())
    return open_view(folder).trials


@pytest.mark.long
def test_a_study_in_pieces_asks_what_one_that_ran_through_does(tmp_path: Path) -> None:
    through, pieces = (write_study(tmp_path / name / "studies") for name in ("through", "pieces"))
    expected = [trial.candidate for trial in go(through, 12)]
    # how deep sensitivity is measured depends on the trials that are planned; from then on nothing does
    shutil.copy(through / "sensitivity.json", pieces / "sensitivity.json")
    for trials in (2, 7, 12):
        found = [trial.candidate for trial in go(pieces, trials)]
    assert found == expected
    assert {c.origin.partition(":")[0] for c in expected} == {"baseline", "guided"}


def test_a_study_begun_without_sensitivity_takes_it_in(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    before = go(folder, 5, sensitivity={"enabled": False})
    assert "baseline:knapsack" not in {trial.candidate.origin for trial in before}
    assert not (folder / "sensitivity.json").exists()
    after = go(folder, 8, sensitivity={"enabled": True})
    assert [trial.candidate for trial in after[:5]] == [trial.candidate for trial in before]
    assert set(Sensitivity.from_json((folder / "sensitivity.json").read_text()).curves) == {"conv1", "conv2"}
    others = [trial.candidate.origin for trial in after[5:] if trial.candidate.origin != "baseline:knapsack"]
    assert len(others) >= 2
    assert all(origin.startswith("guided:") for origin in others)


def test_a_finetune_that_ends_in_nan_is_a_failed_trial_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprune.search.evaluation.make_network import NetworkMaker

    prune, count = NetworkMaker.finetune, 0

    def sometimes(self: NetworkMaker, network: torch.nn.Module, *rest: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            with torch.no_grad():
                next(network.parameters()).fill_(float("nan"))
        prune(self, network, *rest, **named)

    monkeypatch.setattr(NetworkMaker, "finetune", sometimes)
    trials = go(write_study(tmp_path / "studies"), 7)
    failed = [trial for trial in trials if isinstance(trial.outcome, Failed)]
    assert [trial.number for trial in failed] == [2]
    assert failed[0].outcome.error == "NonFiniteError"  # type: ignore[union-attr]
    assert sum(isinstance(trial.outcome, Completed) for trial in trials) >= 4


@pytest.mark.long
def test_a_later_smaller_budget_is_served_by_stored_trials(tmp_path: Path) -> None:
    from autoprune.analysis.pareto import choose
    from autoprune.core.budget import Budget

    trials = go(write_study(tmp_path / "studies"), 16)
    lower = [t for t in trials if t.candidate.origin == "guided:lower" and isinstance(t.outcome, Completed)]
    assert lower
    smaller = lower[0].candidate.budget
    limits = {name: limit.value for name, limit in smaller.limits.items()}
    assert choose(trials, Budget.parse(limits), ACCURACY).number in {
        t.number for t in trials if isinstance(t.outcome, Completed) and smaller.admits(t.outcome.measurement)
    }
