"""Training for int8 at the end of a pick: asked for, resumed, said on the card, and without a trace where it is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_study
from torch import nn

import autoprune
import autoprune.pick.finish
import autoprune.pick.int8_finish
from autoprune.cli.pick import PickRequest
from autoprune.cli.read_request import read_request
from autoprune.core.export_formats import INT8, Wanted, wanted_formats
from autoprune.errors import NonFiniteError, UsageError
from autoprune.export.export_result import Int8Training
from autoprune.loggers.console import PlainDisplay
from autoprune.pick.card_text import card_text
from autoprune.pick.choose_formats import choose_formats
from autoprune.pick.finish import finish_trials
from autoprune.pick.picked_before import picked_before
from autoprune.search.session import run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.view import StudyView, open_view

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> StudyView:
    from rich.console import Console

    folder = write_study(tmp_path_factory.mktemp("int8") / "studies", trials=1)
    values = {"pick": {"epochs": 4.0, "compare": False, "qat": True}}
    run_search(
        read_request(str(folder), folder.parent, values).spec, StudyFolder(folder), PlainDisplay(Console(quiet=True))
    )
    return open_view(folder)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def pick(view: StudyView, *, qat: bool | None = None, **options: Any) -> tuple[Any, Path, list[str]]:
    said: list[str] = []
    wanted = choose_formats(view, int8=True, int8_max_drop=1.0, qat=qat)
    card, folder = finish_trials(
        view, view.trials[:1], view.budget, said.append, wanted=wanted, force=True, compare=False, **options
    )
    return card, folder, said


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "model.int8.onnx")}


@pytest.mark.long
def test_the_card_says_which_was_kept_and_other_files_are_the_same(view: StudyView) -> None:
    plain, folder, said = pick(view, qat=False)
    assert not any("rounded" in line for line in said)
    assert "training" not in plain.to_json()["exports"][INT8]["int8"]
    before = files(folder)
    card, folder, said = pick(view)
    training = card.written.exports[INT8].int8.training
    assert isinstance(training, Int8Training)
    assert (training.share, training.not_rounded, training.failure) == (0.25, (), "")
    assert training.score > 0
    assert any("the last 25 % of the fine-tune once more, rounded as in int8" in line for line in said)
    after = files(folder)
    same = {name for name, content in after.items() if content == before[name]}
    assert same == {"model.safetensors", *([] if training.is_kept else ["model.int8.onnx"])}
    assert (card.scores.validation, card.scores.test) == (plain.scores.validation, plain.scores.test) or (
        card.scores.validation["accuracy"] == plain.scores.validation["accuracy"]
    )
    text = card_text(card)
    assert "once more with the rounding of int8" in text
    assert ("weights of its own" if training.is_kept else "no better beyond noise") in text
    assert json.loads((folder / "card.json").read_text())["exports"][INT8]["int8"]["training"]["is_kept"] is (
        training.is_kept
    )


@pytest.mark.long
def test_a_pick_that_is_cut_off_does_not_train_it_again(view: StudyView, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(autoprune.pick.finish, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            pick(view)
    with monkeypatch.context() as patched:
        patched.setattr(autoprune.pick.int8_finish, "fake_quantised", killed)
        card, folder, _ = pick(view)
    resumed = files(folder)
    assert card.written.exports[INT8].int8.training.seconds > 0
    pick(view)
    assert files(folder) == resumed, "to the same bits"


def test_a_training_that_diverges_leaves_the_finished_network(view: StudyView, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(*_: Any, **__: Any) -> tuple[str, ...]:
        raise NonFiniteError("the loss is nan at step 11 of 12")

    monkeypatch.setattr(autoprune.pick.int8_finish, "not_rounded", diverges)
    card, _, said = pick(view)
    assert card.written.exports[INT8].int8.training.failure == "the loss is nan at step 11 of 12"
    assert "the loss is nan at step 11 of 12" in card_text(card)
    assert any("failed, and the finished network becomes int8" in line for line in said)


def test_it_counts_only_together_with_int8(view: StudyView) -> None:
    assert choose_formats(view, int8=True).qat
    assert choose_formats(view) == wanted_formats("none")
    assert not choose_formats(view, int8=True, qat=False).qat
    with pytest.raises(UsageError, match="--qat trains for int8, which is not among the formats; add --int8"):
        choose_formats(view, qat=True)
    wanted = choose_formats(view, int8=True)
    assert Wanted.from_json(wanted.to_json()) == wanted
    with pytest.raises(UsageError, match="--finetune-epochs 0 does not; leave one out"):
        PickRequest.of({"qat": True, "int8": True, "finetune_epochs": 0.0})


def test_what_was_picked_without_it_is_not_given_back_for_it(view: StudyView) -> None:
    pick(view, qat=False)
    trials = view.trials[:1]
    asked = choose_formats(view, int8=True)
    with pytest.raises(UsageError, match="without training for int8"):
        picked_before(view.folder, trials, None, asked)
    assert picked_before(view.folder, trials, None, choose_formats(view, int8=True, qat=False)) is not None
    assert isinstance(autoprune.load(view.folder.picked / str(trials[0].number), trust_code=True), nn.Module)
