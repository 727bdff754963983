"""A study from Python: live objects, going on, the front, a pick, and what the command line says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import autoprune as ap
from autoprune.cli import main
from autoprune.errors import ModelError, NothingFitsError, StudyMismatchError, UsageError
from autoprune.loggers.events import Event
from autoprune.training.device.seeding import seeded

SETTINGS = {
    **{"finetune.epochs": 1, "finetune.lr": 0.01, "finetune.optimizer": "adamw", "pick.epochs": 1, "pick.top": 1},
    **{"latency.blocks": 5, "latency.runtime": "torch", "runtime.threads": 1, "runtime.precision": "fp32"},
    **{"sensitivity.enabled": False, "screening.enabled": False, "pick.export": "none", "seed": 3},
}
BUDGET = {"mflops": "50%"}


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, (inputs[:, :1] * 2 - inputs[:, 1:2]).sin()


def make_task() -> ap.Task:
    return ap.Task(
        [rows(16, seed) for seed in range(6)],
        [rows(16, seed) for seed in range(6, 8)],
        [rows(16, 9)],
        loss=lambda output, batch: (output - batch[1]).square().mean(),
        score=lambda output, batch: (output - batch[1]).square().flatten(),
        metric="rmse",
        name="waves",
    )


def make_model(seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[ap.Study, nn.Module, list[Event]]:
    events = list[Event]()
    model = make_model()
    study = ap.Study(
        tmp_path_factory.mktemp("runs") / "waves", model, make_task(), settings=SETTINGS, on_event=events.append
    )
    run = study.search(budget=BUDGET, trials=3)
    assert (run.added, run.finished) == (3, 3)
    return study, model, events


def again(study: ap.Study, **changes: Any) -> ap.Study:
    given = {"model": make_model(), "task": make_task(), "settings": SETTINGS, **changes}
    return ap.Study(study.folder, given.pop("model"), given.pop("task"), **given)


def test_the_live_network_is_left_as_it_was(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    _, model, _ = begun
    for mine, fresh in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(mine, fresh)
        assert mine.grad is None


def test_a_program_is_told_what_happens(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    _, _, events = begun
    assert {event.kind for event in events} >= {"note", "began", "asked", "phase", "trial"}
    finished = [event for event in events if event.kind == "trial"]
    assert [event.done for event in finished] == [1, 2, 3]
    assert finished[0].wanted == 3
    assert finished[0].measurement is not None
    assert finished[0].measurement["rmse"] > 0


def test_nothing_is_printed(begun: tuple[ap.Study, nn.Module, list[Event]], capfd: pytest.CaptureFixture[str]) -> None:
    again(begun[0]).search(budget=BUDGET, trials=3)
    assert capfd.readouterr() == ("", "")


def test_a_program_is_told_and_a_person_shown(
    begun: tuple[ap.Study, nn.Module, list[Event]], capfd: pytest.CaptureFixture[str]
) -> None:
    events = list[Event]()
    study = again(begun[0], on_event=events.append, show=True)
    study.search(budget=BUDGET, trials=len(study.trials) + 1)
    shown = capfd.readouterr().err
    told = [event for event in events if event.kind == "trial"]
    assert f"trial {told[0].number} " in shown
    assert all(event.text in shown for event in events if event.kind == "note")


def test_settings_need_not_be_given_again(tmp_path: Path) -> None:
    given = make_model(), make_task()
    ap.Study(tmp_path / "s", *given, settings={**SETTINGS, "dense.epochs": 1}).search(budget=BUDGET, trials=1)
    assert ap.Study(tmp_path / "s", *given).search(trials=2).added == 1


def test_it_goes_on_with_the_same_objects_and_refuses_others(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    study = begun[0]
    finished = len(study.trials)
    assert again(study).search(budget=BUDGET, trials=finished + 1).added == 1
    with pytest.raises(StudyMismatchError, match=r"the network's 0\.weight is not what the study"):
        again(study, model=make_model(1)).search(budget=BUDGET, trials=9)
    other = make_task()
    other._splits["val"].given = [rows(16, 77)]
    with pytest.raises(StudyMismatchError, match="the content of the data 'waves' differs"):
        again(study, task=other).search(budget=BUDGET, trials=9)
    with pytest.raises(StudyMismatchError, match=r"finetune\.lr: stored 0\.01, given 0\.5"):
        again(study, settings={**SETTINGS, "finetune.lr": 0.5}).search(budget=BUDGET, trials=9)


def test_what_is_stored_needs_no_object(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    study = ap.Study(begun[0].folder)
    front = study.front()
    assert front
    assert {trial.number for trial in front} <= {trial.number for trial in study.trials}
    assert all(trial["mflops"] <= study.view().dense["mflops"] for trial in front)
    row = front[0].to_dict()
    assert row["rmse"] == front[0].measurement["rmse"]
    assert row["rmse_stderr"] == front[0].measurement.stderr["rmse"]
    assert ap.PruningPolicy.from_json(row["policy"]) == front[0].policy  # type: ignore[arg-type]
    assert study.report().name == "report.html"


def test_a_pick_is_a_network_a_card_and_files(begun: tuple[ap.Study, nn.Module, list[Event]], tmp_path: Path) -> None:
    study, model, _ = begun
    small = study.pick(budget=BUDGET)
    assert small.card.scores.test is not None
    assert small.card.scores.validation["mflops"] <= 0.5 * study.view().dense["mflops"]
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in model.parameters())
    twice = study.pick(budget=BUDGET)
    assert twice.folder == small.folder
    assert twice.card == small.card
    assert study.pick(budget=BUDGET, epochs=1).card == small.card
    with pytest.raises(UsageError, match=r"picked before with 1 epochs of .*, and epochs=2 is asked .*force=True"):
        study.pick(budget=BUDGET, epochs=2)
    with pytest.raises(UsageError, match=r"picked before without pt2, which is asked for now"):
        study.pick(budget=BUDGET, export="pt2")
    with pytest.raises(UsageError, match="no quality of this study named 'accuracy'; known: rmse"):
        study.pick(quality={"accuracy": "97%"})
    with pytest.raises(UsageError, match="trial finishes one trial alone"):
        study.pick(trial=0, quality={"rmse": 3})
    with pytest.raises(UsageError, match="trial finishes one trial alone, and prefer chooses between several"):
        study.pick(trial=0, prefer="latency")
    with pytest.raises(UsageError, match="qat trains, and epochs 0 does not"):
        study.pick(trial=0, epochs=0, qat=True)
    with pytest.raises(NothingFitsError, match=r"meets rmse ≤ 0\.0000; the nearest is trial"):
        study.pick(quality={"rmse": 0.0})
    saved = small.save(tmp_path / "small")
    inputs = rows(4, 1)[0]
    assert torch.equal(ap.load(saved, network=make_model())(inputs), small.model(inputs))
    with pytest.raises(UsageError, match="is not empty"):
        small.save(saved)
    assert small.save(saved, force=True) == saved
    with pytest.raises(UsageError, match="an object that a Python program gave"):
        ap.load(saved)


def test_a_pick_by_quality_takes_the_cheapest_that_is_good_enough(
    begun: tuple[ap.Study, nn.Module, list[Event]],
) -> None:
    study = begun[0]
    worst = max(trial["rmse"] for trial in study.trials)
    small = study.pick(quality={"rmse": worst}, prefer="size", compare=False, top=1, force=True)
    assert small.folder.name == str(min(study.trials, key=lambda trial: trial["size_mb"]).number)
    assert small.card.origin.uniform is None  # type: ignore[union-attr]


def test_the_command_line_reads_it_and_says_what_it_lacks(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    folder = str(begun[0].folder)
    shown = CliRunner().invoke(main, ["report", folder])
    assert shown.exit_code == 0, shown.output
    assert "rmse" in shown.output
    listed = CliRunner().invoke(main, ["studies", "--root", str(begun[0].folder.parent)])
    assert "waves" in listed.output
    refused = CliRunner().invoke(main, ["search", folder, "--trials", "9"])
    assert refused.exit_code == 2
    assert "go on from Python, with autoprune.Study(folder, model, task)" in refused.output


def test_names_do_as_well_as_objects(tmp_path: Path) -> None:
    study = ap.Study(tmp_path / "named", "mlp", "breast-cancer", settings={**SETTINGS, "dense.epochs": 1})
    assert study.search(budget={"mparams": "60%"}, trials=1).added == 1
    assert ap.Study(tmp_path / "named").search(trials=2).added == 1


def test_faults_of_settings_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"sed: unknown key(.|\n)*finetune\.lr: given 'fast'"):
        ap.Study(tmp_path / "s", settings={"finetune.lr": "fast", "sed": 1})


def test_a_network_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the model is the class Linear; expected a torch\.nn\.Module"):
        ap.Study(tmp_path / "s", nn.Linear, make_task()).search(trials=1)  # type: ignore[arg-type]


def test_a_study_that_has_not_begun_needs_a_network_and_a_task(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="to begin one model and task is needed"):
        ap.Study(tmp_path / "s").search()
    with pytest.raises(UsageError, match="to begin one task is needed"):
        ap.Study(tmp_path / "s", make_model()).search()
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"mflop": "40%"}, r"budget\.mflop: unknown key(.|\n)*'mflops'"),
        ("40%", "budget is '40%'; expected a dictionary"),
    ],
)
def test_a_budget_that_is_none_is_told_and_not_passed_over(tmp_path: Path, budget: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ap.Study(tmp_path / "s", make_model(), make_task()).search(budget=budget, trials=1)


def test_a_metric_of_the_task_s_own_can_be_an_objective(tmp_path: Path) -> None:
    hit = ap.Metric("within_a_half", "%", "max")
    task = ap.Task(
        [rows(8, 1)], [rows(8, 2)], loss=lambda *_: torch.zeros(()), score=lambda *_: {}, metric=["mse", hit]
    )
    study = ap.Study(tmp_path / "s", make_model(), task, settings={"objectives": ["mse", "within_a_half", "mflops"]})
    assert study.spec.objectives == ("mse", "within_a_half", "mflops")


def test_a_format_needs_no_list_and_an_unknown_one_is_told(begun: tuple[ap.Study, nn.Module, list[Event]]) -> None:
    with pytest.raises(UsageError, match="'nosuch'"):
        begun[0].pick(export="nosuch")
    with pytest.raises(UsageError, match="settings is 'seed=1'; expected a dictionary"):
        ap.Study(begun[0].folder, settings="seed=1")  # type: ignore[arg-type]
