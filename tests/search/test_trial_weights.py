"""The networks of trials on disk: what is loaded is what was measured, whatever was killed, full or damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from cards import finish_to_json
from click.testing import CliRunner
from kept_weights import kept_along
from safetensors.torch import load_file
from tiny import finished, write_study

import autoprune
import autoprune.core.atomic_write
import autoprune.search.trial_weights
from autoprune.analysis.weight_retention import retained_trials
from autoprune.cli import main
from autoprune.cli.read_request import read_request
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.errors import ModelError, StudyError
from autoprune.search.session import run_search
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.trial_weights import stored_numbers
from autoprune.study.disk_usage import size_of
from autoprune.study.folder import StudyFolder
from autoprune.study.ledger import Ledger
from autoprune.study.view import open_view

TRIALS = 6


@dataclass
class Quiet:
    """Keep the warnings of a run."""

    warnings: list[str] = field(default_factory=list)

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def began(
        self, trials: list[Trial], wanted: int, budget: Budget, dense: Measurement, qualities: object
    ) -> None: ...

    def asked(self, candidate: Candidate) -> None: ...

    def phase(self, name: str) -> None: ...

    def told(self, trial: Trial) -> None: ...


pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def search(folder: Path, trials: int = TRIALS, **disk: str) -> Quiet:
    request = read_request(str(folder), folder.parent, {"trials": trials, **({"disk": disk} if disk else {})})
    display = Quiet()
    run_search(request.spec, StudyFolder(folder), display)
    return display


def expected(folder: Path) -> list[int]:
    return sorted(kept_along(folder))


def worth_keeping_now(folder: Path) -> list[int]:
    view = open_view(folder)
    return sorted(retained_trials(view.trials, view.spec.objectives, view.budget, view.spec.quality, view.dense))


def stored(folder: Path) -> list[int]:
    return stored_numbers(StudyFolder(folder))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study with a dense network and one trial, to be copied."""
    folder = write_study(tmp_path_factory.mktemp("begun") / "studies")
    search(folder, 1)
    return folder


@pytest.fixture(scope="module")
def whole(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study that keeps every trial's weights; not to be changed."""
    folder = shutil.copytree(begun, tmp_path_factory.mktemp("whole") / "tiny")
    search(folder, keep_weights="all")
    return folder


@pytest.fixture
def study(begun: Path, tmp_path: Path) -> Path:
    return shutil.copytree(begun, tmp_path / "tiny")


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


def test_a_loaded_network_answers_as_it_did_when_it_was_measured(whole: Path) -> None:
    """The oracle is a plain loop over the validation images."""
    view = open_view(whole)
    task = prepare_study(view.spec, view.folder, lambda message: None).task
    runtime = prepare_study(view.spec, view.folder, lambda message: None).device
    completed = [trial for trial in view.trials if isinstance(trial.outcome, Completed)]
    assert [trial.number for trial in completed] == stored(whole)
    assert len(completed) >= TRIALS - 1
    for trial in completed:
        network = autoprune.load_trial(whole, trial.number, trust_code=True)
        assert not network.training
        assert all(parameter.requires_grad for parameter in network.parameters())
        right, losses = [], []
        with torch.no_grad():
            for batch in task.eval_batches("val", 7, runtime):
                answers = network(batch.images)
                right += (answers.argmax(1) == batch.labels).tolist()
                losses += torch.nn.functional.cross_entropy(answers, batch.labels, reduction="none").tolist()
        found = trial.outcome.measurement  # type: ignore[union-attr]
        assert sum(right) / len(right) == found["accuracy"]
        assert right == PairedScores(trial.outcome.paired).unpack().tolist()  # type: ignore[union-attr]
        assert sum(losses) / len(losses) == pytest.approx(found["loss"], rel=1e-5)
        assert sum(parameter.numel() for parameter in network.parameters()) == round(1e6 * found["mparams"])


def test_by_default_the_front_stays_and_the_rest_is_collected(study: Path, whole: Path) -> None:
    assert search(study).warnings == []
    assert stored(study) == expected(study)
    assert finished(study) == finished(whole), "what is kept changes no proposal"
    for number in stored(study):
        ours, theirs = (load_file(StudyFolder(one).trial_weights(number)) for one in (study, whole))
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_none_are_kept_and_what_was_kept_goes(study: Path) -> None:
    assert stored(study) == [0]
    search(study, 2, keep_weights="none")
    assert stored(study) == []
    assert not list((study / "weights").iterdir())


def test_from_all_to_the_front_only_the_front_stays_even_with_nothing_to_do(copied: Path) -> None:
    search(copied, keep_weights="front")
    assert stored(copied) == worth_keeping_now(copied)
    assert len(stored(copied)) <= TRIALS


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing is tidied up after it."""


def die(*_: Any, **__: Any) -> None:
    raise Killed


POINTS = ("before the file", "half-written", "written, not told", "told, not removed")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_leaves_nothing_that_the_next_run_does_not_put_right(
    study: Path, whole: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(autoprune.core.atomic_write, "_discard", lambda path: None)  # a dead process tidies nothing up
        match point:
            case "before the file":
                patch.setattr(autoprune.search.trial_weights, "write_bytes", die)
            case "half-written":
                replace_file = Path.replace

                def replace(path: Path, target: Path) -> Path:
                    return die() if target.parent.name == "weights" else replace_file(path, target)  # type: ignore[return-value]

                patch.setattr(Path, "replace", replace)
            case "written, not told":
                patch.setattr(Ledger, "tell", die)
            case _:
                patch.setattr(autoprune.search.trial_weights.TrialWeights, "remove_obsolete", die)
        with pytest.raises(Killed):
            search(study)
    files = [path.name for path in (study / "weights").iterdir()]
    told = [number for number, _ in finished(study)]
    assert told == ([0, 1] if point == "told, not removed" else [0])
    assert ("1.safetensors" in files) == (point in ("written, not told", "told, not removed"))
    assert any(name.endswith(".tmp") for name in files) == (point == "half-written")

    (study / "weights" / "77.safetensors").write_bytes(b"of a trial that was never stored")
    assert search(study).warnings == []
    assert stored(study) == expected(study)
    assert sorted(path.name for path in (study / "weights").iterdir()) == sorted(
        f"{n}.safetensors" for n in stored(study)
    )
    assert finished(study) == finished(whole)


def test_a_full_disk_is_said_once_and_does_not_end_the_search(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise StudyError(f"cannot write {str(path)!r}: No space left on device; free space")

    monkeypatch.setattr(autoprune.search.trial_weights, "write_bytes", full)
    (said,) = search(study).warnings
    assert "No space left on device" in said
    assert "goes on" in said
    assert [number for number, _ in finished(study)] == list(range(TRIALS))
    assert stored(study) in ([], [0])
    monkeypatch.undo()
    search(study, TRIALS + 1)
    assert set(stored(study)) <= set(expected(study))


def test_a_file_that_cannot_be_removed_is_said_once(study: Path) -> None:
    (study / "weights" / "77.safetensors").mkdir()
    (study / "weights" / "78.safetensors").mkdir()
    (said,) = search(study, 2).warnings
    assert "77.safetensors" in said
    assert [number for number, _ in finished(study)] == [0, 1]


# --- what is kept can be used


def test_pick_without_a_fine_tune_finishes_with_the_very_weights(copied: Path) -> None:
    view = open_view(copied)
    trial = next(t for t in view.trials if not t.candidate.is_baseline and isinstance(t.outcome, Completed))
    said: list[str] = []
    card, folder = finish_to_json(view, [trial], view.budget, said.append, epochs=0)
    saved, measured = load_file(folder / "model.safetensors"), load_file(view.folder.trial_weights(trial.number))
    assert saved.keys() == measured.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in measured.items())
    found = trial.outcome.measurement  # type: ignore[union-attr]
    assert card["validation"]["values"]["accuracy"] == found["accuracy"]
    assert card["validation"]["values"]["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert (card["finetune"]["epochs"], card["finetune"]["start"]) == (0, "trial")
    uniform = next(t for t in view.trials if t.candidate.origin == "baseline:uniform")
    theirs = card["uniform"]["validation"]["values"]["accuracy"]
    assert theirs == uniform.outcome.measurement["accuracy"]  # type: ignore[union-attr]
    assert f"finishing trial {trial.number} as measured in the search" in said


def test_a_baseline_whose_weights_are_gone_is_not_compared_with(copied: Path) -> None:
    view = open_view(copied)
    uniform = next(t for t in view.trials if t.candidate.origin == "baseline:uniform")
    trial = next(t for t in view.trials if not t.candidate.is_baseline and isinstance(t.outcome, Completed))
    view.folder.trial_weights(uniform.number).unlink()
    card, _ = finish_to_json(view, [trial], view.budget, lambda message: None, epochs=0)
    assert "are not kept" in card["uniform_missing"]
    view.folder.trial_weights(uniform.number).write_bytes(b"damaged")
    card, _ = finish_to_json(view, [trial], view.budget, lambda message: None, epochs=0, force=True)
    assert "is damaged" in card["uniform_missing"]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_weights_that_are_not_kept_are_said_with_what_to_do(copied: Path) -> None:
    StudyFolder(copied).trial_weights(2).unlink()
    with pytest.raises(StudyError, match=r"trial 2 are not kept.*kept: 0, 1, 3") as caught:
        autoprune.load_trial(copied, 2, trust_code=True)
    assert "--keep-weights all" in str(caught.value)
    result = run("pick", copied, "--trial", "2", "--finetune-epochs", "0")
    assert result.exit_code == 1
    assert "the weights of trial 2 are not kept" in result.stderr
    assert not (copied / "picked").exists()
    empty = copied.with_name("empty")
    with pytest.raises(StudyError, match="kept: none"):
        autoprune.load_trial(empty, 0, trust_code=True)


def test_the_command_line_takes_the_best_as_measured(copied: Path) -> None:
    result = run("pick", copied, "--finetune-epochs", "0", "--no-compare", "--json")
    assert result.exit_code == 0, result.stderr
    card = json.loads(result.stdout)
    assert [one["trial"] for one in card["contenders"]] == [card["trial"]]
    assert card["validation"]["values"]["accuracy"] == card["in_search"]["values"]["accuracy"]


def test_damaged_weights_and_those_of_another_policy_are_refused(copied: Path) -> None:
    view = open_view(copied)
    path = view.folder.trial_weights(3)
    shutil.copy(view.folder.trial_weights(2), path)
    with pytest.raises(StudyError, match="another policy"):
        finish_to_json(view, [view.trials[3]], view.budget, lambda message: None, epochs=0)
    for content in (b"", path.read_bytes()[:40], path.read_bytes()[:-8]):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"3\.safetensors"):
            autoprune.load_trial(copied, 3, trust_code=True)


# --- how large a study is


def test_the_size_of_a_study_is_the_sum_of_its_parts(whole: Path) -> None:
    size = size_of(StudyFolder(whole))
    every = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    assert sum(size.parts.values()) == every
    assert size.networks == len(stored(whole))
    weights = sum(path.stat().st_size for path in (whole / "weights").iterdir())
    assert size.parts["weights of trials"] == weights > 0
    assert size.parts["dense network"] == (whole / "dense.safetensors").stat().st_size
    assert size.parts["trials"] >= (whole / "study.db").stat().st_size
    assert list(size.parts.values()) == sorted(size.parts.values(), reverse=True)


def test_search_ends_with_the_size_of_the_study(whole: Path) -> None:
    shown = run("search", whole, "--keep-weights", "all")
    assert f"stored in {whole}, {size_of(StudyFolder(whole)).megabytes:.2f} MB: " in shown.stdout
    assert f"weights of {len(stored(whole))} trials" in shown.stdout
    document = json.loads(run("search", whole, "--keep-weights", "all", "--json").stdout)
    assert document["size"]["networks"] == len(stored(whole))
