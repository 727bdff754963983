"""The peak learning rate of a study: the best of a few, tried once, unless somebody says one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_task
from tiny_study import tiny_spec

from autoprune.search.setup import choose_peak_rate
from autoprune.search.setup.choose_peak_rate import best_rate, finish_rate, near, with_peak_rate
from autoprune.search.setup.from_spec import finetune_settings, resolve
from autoprune.search.setup.prepare_study import prepare_all_but_rate, prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.stored_spec import remember, with_stored_choices
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.training.learning_rate import RATES as RATES_OF
from autoprune.training.learning_rate import usual_rate

RATES = (0.01, 0.03, 0.1)


@pytest.mark.parametrize(
    ("losses", "rate", "tried"),
    [
        ({0.01: 1.0, 0.03: 1.0, 0.1: 1.0}, 0.03, 3),
        ({0.01: 1.2, 0.03: 1.0, 0.1: 0.96}, 0.03, 3),  # by less than what counts
        ({0.01: 1.2, 0.03: 1.0, 0.1: 0.9}, 0.1, 3),
        ({0.01: 0.98, 0.03: 1.0}, 0.03, 2),  # past the valley: the largest is not tried
        ({0.01: 0.9, 0.03: 1.0, 0.003: 0.95}, 0.01, 3),
        ({0.01: 0.625, 0.03: 0.839, 0.003: 0.617}, 0.01, 3),  # a short trial flatters small rates
        ({0.01: 0.9, 0.03: 1.0, 0.003: 0.8, 0.0009: 0.7}, 0.0009, 4),
        ({0.01: 0.5, 0.03: math.inf, 0.003: 0.6}, 0.01, 3),
        ({0.01: math.inf, 0.03: math.inf, 0.1: math.inf, 0.003: math.inf, 0.0009: math.inf}, 0.03, 5),
        ({0.01: math.inf, 0.03: math.inf, 0.1: math.inf, 0.003: 3.0, 0.0009: 2.9}, 0.003, 5),
        ({0.01: -1.0, 0.03: -0.99}, 0.03, 2),
        ({0.01: -1.1, 0.03: -1.0, 0.003: -0.9}, 0.01, 3),
    ],
)
def test_of_the_rates_that_are_as_good_as_the_best_the_nearest_to_the_usual_one_is_taken(
    losses: dict[float, float], rate: float, tried: int
) -> None:
    found = best_rate(RATES, lambda rates: [losses[each] for each in rates])
    assert found.rate == rate
    assert len(found.losses) == tried


@pytest.mark.parametrize(
    ("steps", "rate"),
    [(24, 0.003), (117, 0.01), (240, 0.03)],  # ResNet-56 on CIFAR-10, cut to half
)
def test_the_longer_a_fine_tune_is_the_larger_its_rate_may_be(steps: int, rate: float) -> None:
    losses = {0.01: 0.7543, 0.03: 0.8004, 0.003: 0.7065, 0.0009: 0.7351}
    assert best_rate(RATES, lambda rates: [losses[each] for each in rates], near(steps, 24)).rate == rate


def study_of(tmp_path: Path, heard: list[str] | None = None, **finetune: Any) -> PreparedStudy:
    folder = StudyFolder(tmp_path / "study")
    folder.create()
    base = {"epochs": 2.0, "batch_size": 32, "compensation_images": 48, "lr": "auto"}
    spec = with_stored_choices(resolve(tiny_spec(write_task(tmp_path), finetune=base | finetune)), folder)
    study = prepare_study(spec, folder, (heard if heard is not None else []).append)
    remember(study.spec, {}, folder)
    return study


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_tried_once_and_stored_for_every_worker_and_run(tmp_path: Path, optimizer: str) -> None:
    heard = list[str]()
    study = study_of(tmp_path, heard, optimizer=optimizer)
    stored = json.loads(study.folder.peak_rate.read_text(encoding="utf-8"))
    assert study.spec.finetune.lr == stored["rate"]
    assert [float(rate) for rate in stored["losses"]][:2] == list(RATES_OF[optimizer])[:2]
    assert all(loss > 0 for loss in stored["losses"].values())
    said = [line for line in heard if line.startswith("peak learning rate: ")]
    assert len(said) == 1
    assert f"peak learning rate: {stored['rate']:g} (finetune.lr)" in said[0]
    again = list[str]()
    assert study_of(tmp_path, again, optimizer=optimizer).spec == study.spec, "a second run"
    undecided = study.spec.finetune.model_copy(update={"lr": "auto"})
    worker = prepare_study(study.spec.model_copy(update={"finetune": undecided}), study.folder, again.append)
    assert worker.spec == study.spec, "a worker that joins while the first one prepares"
    assert not [line for line in again if "learning rate" in line]
    assert finetune_settings(worker.spec).lr == stored["rate"]


def test_the_dense_network_is_left_as_it_was(tmp_path: Path) -> None:
    tried, given = study_of(tmp_path / "a"), study_of(tmp_path / "b", lr=0.02)
    assert given.spec.finetune.lr == 0.02
    assert not given.folder.peak_rate.exists()
    for one, other in zip(tried.network.parameters(), given.network.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("finetune", [{"epochs": 0.0}, {"epochs": 0.5}])
def test_nothing_is_tried_where_too_few_steps_would_tell(tmp_path: Path, finetune: dict[str, float]) -> None:
    study = study_of(tmp_path, **finetune)
    assert study.spec.finetune.lr == usual_rate("sgd")
    assert not study.folder.peak_rate.exists()


def test_training_that_explodes_counts_as_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_peak_rate, "RATES", {"sgd": (0.001, 1e18, 1e20)})
    monkeypatch.setattr(choose_peak_rate, "usual_rate", lambda optimizer: 1e18)
    study = study_of(tmp_path)
    stored = json.loads(study.folder.peak_rate.read_text(encoding="utf-8"))
    assert stored["losses"]["1e+18"] is None
    assert study.spec.finetune.lr == stored["rate"] <= 0.001


def test_a_finish_has_the_rate_that_suits_its_length(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    assert study.spec.pick.lr == "auto"
    assert with_stored_choices(study.spec, study.folder).pick.lr == "auto"
    study.folder.peak_rate.write_text(json.dumps({"rate": 0.01, "losses": {"0.01": 0.7, "0.03": 0.8, "0.003": 0.71}}))
    decided = replace(study, context=replace(study.context, spec=with_rate(study.spec, 0.01)))
    as_tried = choose_peak_rate._steps(study) / study.task.steps_per_epoch(32)
    found = [finish_rate(decided, times * as_tried) for times in (0.1, 1, 8, 10, 90, 101, 10_000)]
    assert found == [0.01, 0.01, 0.01, 0.03, 0.03, 0.1, 0.1]
    study.folder.peak_rate.write_text(json.dumps({"rate": 0.3, "losses": {"0.1": 0.9, "0.3": 0.8}}))
    largest = replace(study, context=replace(study.context, spec=with_rate(study.spec, 0.3)))
    assert finish_rate(largest, as_tried) == 0.3, "never smaller than the trials'"


@pytest.mark.parametrize("content", [None, "", '{"rate": 0.01}', '{"rate": 0.03, "losses": {"0.03": 0.1}}'])
def test_a_finish_keeps_a_rate_that_was_not_tried(tmp_path: Path, content: str | None) -> None:
    study = study_of(tmp_path, lr=0.01)
    if content is not None:
        study.folder.peak_rate.write_text(content)
    assert finish_rate(study, 1000.0) == 0.01


def with_rate(spec: StudySpec, rate: float) -> StudySpec:
    return spec.model_copy(update={"finetune": spec.finetune.model_copy(update={"lr": rate})})


def test_a_worker_that_waits_tries_a_rate_and_the_study_is_the_same(tmp_path: Path) -> None:
    alone = study_of(tmp_path / "alone")
    folder = StudyFolder(tmp_path / "shared")
    folder.create()
    spec = alone.spec.model_copy(update={"finetune": alone.spec.finetune.model_copy(update={"lr": "auto"})})
    study, helper = (prepare_all_but_rate(spec, folder, lambda said: None) for _ in range(2))
    assert study.spec.finetune.lr == "auto"
    work, helped = DividedWork(folder.divided), list[float]()
    computes = {choose_peak_rate.RATE_TRIALS: partial(_noted, helped, choose_peak_rate.RateTrial(helper))}
    with work.open():
        first = DividedWork(folder.divided)
        own = choose_peak_rate.RateTrial.loss_of

        def helps_meanwhile(trial: choose_peak_rate.RateTrial, item: dict[str, Any]) -> Any:
            if trial.study is study and not helped:
                assert first.help(computes), "another rate is free while this one is tried"
            return own(trial, item)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(choose_peak_rate.RateTrial, "loss_of", helps_meanwhile)
            decided = with_peak_rate(study, work)
    assert len(helped) == 1
    assert decided.spec.finetune.lr == alone.spec.finetune.lr
    assert folder.peak_rate.read_text() == alone.folder.peak_rate.read_text()


def _noted(helped: list[float], trial: choose_peak_rate.RateTrial, item: dict[str, Any]) -> Any:
    helped.append(item["rate"])
    return trial.loss_of(item)
