"""TensorBoard and MLflow themselves, read back by their own readers: kills, resumes, and a server that is away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from judged_studies import RMSE, judged, judged_trial
from tiny import write_study

from autoprune.cli.read_request import read_request
from autoprune.core.metrics import ACCURACY, register
from autoprune.core.trial import Completed, Trial
from autoprune.loggers.check_logger import check_logger, example_study, example_trials
from autoprune.loggers.dispatch import Loggers, make_logger
from autoprune.loggers.protocol import Standing
from autoprune.search.session import Run, run_search
from autoprune.study.folder import StudyFolder
from autoprune.study.view import open_view


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Track nowhere but where a test says, tell nobody, and leave PyTorch's threads as they were."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return MLflow's database without any run: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    make_logger("mlflow")
    client(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    """Return a study's folder in which MLflow's database is ready."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


class Silent:
    """Show nothing, but keep warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def go(folder: Path, display: Silent | None = None, **values: Any) -> Run:
    spec = read_request(str(folder), folder.parent, values).spec
    return run_search(spec, StudyFolder(folder), display or Silent())


def board(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def steps(folder: Path, tag: str) -> dict[int, float]:
    """Return step → value of a scalar; a step that comes twice fails."""
    events = board(folder).Scalars(tag)
    assert len({event.step for event in events}) == len(events), "a step was logged twice"
    return {event.step: event.value for event in events}


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(folder: Path, uri: str = "") -> tuple[Any, dict[int, Any]]:
    """Return the parent run that a study's folder remembers, and its nested runs by trial number."""
    used = client(uri or f"sqlite:///{folder / 'mlflow.db'}")
    parents = json.loads((folder / "mlflow.json").read_text())
    parent = used.get_run(parents[uri or "mlflow.db"])
    nested = used.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    by_number = {int(run.data.tags["autoprune.trial"]): run for run in nested}
    assert len(by_number) == len(nested), "a trial was logged twice"
    return parent, by_number


def logged_session(name: str, folder: Path, stored: int, total: int) -> None:
    """Let a shipped logger see some example trials, those stored before as its resume."""
    trials, loggers = example_trials(), Loggers.named([name], pytest.fail)
    with loggers.session(example_study(folder), trials[:stored]):
        for trial in trials[stored:total]:
            loggers.told(trial)


def rmse_session(name: str, folder: Path) -> None:
    """Let a shipped logger see a study that is judged by an rmse and an accuracy without a standard error."""
    register([RMSE])
    trials = [judged_trial(n, judged(RMSE, 0.6 - 0.1 * n, 40, 0.02, accuracy=0.9)) for n in range(2)]
    dense = judged(RMSE, 0.5, 100, 0.02, accuracy=0.91)
    study = replace(example_study(folder), objectives=("rmse", "mflops"), dense=dense, qualities=(RMSE, ACCURACY))
    loggers = Loggers.named([name], pytest.fail)
    with loggers.session(study, trials[:1]):
        loggers.told(trials[1])


def test_tensorboard_knows_any_metric(tmp_path: Path) -> None:
    rmse_session("tensorboard", tmp_path)
    folder = tmp_path / "tensorboard"
    assert steps(folder, "quality/rmse") == pytest.approx({0: 0.6, 1: 0.5})
    assert steps(folder, "quality/rmse_stderr") == pytest.approx({0: 0.02, 1: 0.02})
    assert steps(folder, "best/rmse") == pytest.approx({0: 0.6, 1: 0.5})
    assert steps(folder, "best/accuracy") == pytest.approx({0: 0.9, 1: 0.9})
    assert steps(folder, "dense/rmse") == pytest.approx({0: 0.5})
    texts = [e.tensor_proto.string_val[0].decode() for e in board(folder).Tensors("policy/text_summary")]
    assert "rmse 0.5000 ± 0.0200 mm, accuracy 90.00 %" in texts[1]


def test_mlflow_knows_any_metric(folder: Path) -> None:
    rmse_session("mlflow", folder)
    parent, nested = runs(folder)
    assert parent.data.metrics["dense/rmse"] == 0.5
    assert parent.data.metrics["best/rmse"] == pytest.approx(0.5)
    assert nested[0].data.metrics["rmse"] == 0.6
    assert nested[0].data.metrics["accuracy"] == 0.9


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_shipped_loggers_keep_the_contract(folder: Path, name: str) -> None:
    check_logger(name, folder)


def test_a_whole_study_is_in_both_although_its_process_died_before_a_trial_was_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> None:
    folder = write_study(tmp_path / "studies", trials=4)
    shutil.copy(empty_database, folder)
    told = Loggers.told

    def dies_at_one(self: Loggers, trial: Trial) -> None:
        if trial.number == 1:
            raise KeyboardInterrupt
        told(self, trial)

    with monkeypatch.context() as patch:
        patch.setattr(Loggers, "told", dies_at_one)
        with pytest.raises(KeyboardInterrupt):
            go(folder, logging={"loggers": ["tensorboard", "mlflow"]})
    assert set(steps(folder / "tensorboard", "quality/accuracy")) == {0}
    interrupted, nested = runs(folder)
    assert (interrupted.info.status, set(nested)) == ("KILLED", {0})

    display = Silent()
    assert go(folder, display).added == 2, "loggers are remembered, and change no meaning"
    assert display.warnings == []
    trials = {trial.number: trial for trial in open_view(folder).trials}
    accuracy = {n: t.outcome.measurement["accuracy"] for n, t in trials.items() if isinstance(t.outcome, Completed)}
    assert len(accuracy) == 4
    assert steps(folder / "tensorboard", "quality/accuracy") == pytest.approx(accuracy)
    assert steps(folder / "tensorboard", "search/trials") == {number: number + 1 for number in range(4)}
    finished, nested = runs(folder)
    assert finished.info.run_id == interrupted.info.run_id
    assert finished.info.status == "FINISHED"
    assert {number: run.data.metrics["accuracy"] for number, run in nested.items()} == accuracy
    before = finished.data
    go(folder, trials=4)
    assert runs(folder)[0].data.metrics == before.metrics, "nothing is logged anew once all is done"


@pytest.mark.parametrize("died_after", ["first", "later"])
def test_tensorboard_keeps_nothing_of_what_a_killed_process_had_begun(tmp_path: Path, died_after: str) -> None:
    """It dies after the events of trial 2 are on disk and before the trial is counted."""
    marker = tmp_path / "tensorboard" / "logged.json"
    if died_after == "first":  # of its session: a new file
        logged_session("tensorboard", tmp_path, 0, 2)
        counted = marker.read_text()
        logged_session("tensorboard", tmp_path, 2, 3)
    else:
        trials, logger = example_trials(), make_logger("tensorboard")
        with Loggers({"tensorboard": logger}, pytest.fail).session(example_study(tmp_path), trials[:2]):
            counted = marker.read_text()
            logger.told(trials[2], Standing(None, 0.0, {}))
    marker.write_text(counted)
    logged_session("tensorboard", tmp_path, 3, 6)
    assert set(steps(tmp_path / "tensorboard", "search/trials")) == set(range(6))
    texts = [
        e.tensor_proto.string_val[0].decode() for e in board(tmp_path / "tensorboard").Tensors("policy/text_summary")
    ]
    assert [text.split(",")[0] for text in texts] == [f"**trial {number}**" for number in range(6)]
    assert steps(tmp_path / "tensorboard", "best/trial") == dict.fromkeys(range(6), 0)
    assert steps(tmp_path / "tensorboard", "dense/accuracy") == {0: pytest.approx(0.95)}
    runs_of_trials = list((tmp_path / "tensorboard" / "trials").iterdir())
    assert {path.name for path in runs_of_trials} == {"00000", "00004", "00005"}
    assert all(len(list(path.iterdir())) == 1 for path in runs_of_trials)


def test_tensorboard_compares_trials_by_their_hyper_parameters(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    logged_session("tensorboard", tmp_path, 0, 1)
    found = board(tmp_path / "tensorboard" / "trials" / "00000").SummaryMetadata(SESSION_START_INFO_TAG)
    chosen = HParamsPluginData.FromString(found.plugin_data.content).session_start_info.hparams
    assert chosen["sparsity/layer1.0.conv1"].number_value == 0.5
    assert chosen["origin"].string_value == "baseline:uniform"


def test_mlflow_has_every_kind_of_trial_and_what_is_left_open_is_logged_again(folder: Path) -> None:
    logged_session("mlflow", folder, 0, 4)
    parent, nested = runs(folder)
    used = client(f"sqlite:///{folder / 'mlflow.db'}")
    used.update_run(nested[3].info.run_id, status="RUNNING")  # as a killed process leaves it
    logged_session("mlflow", folder, 4, 6)
    again, nested = runs(folder)
    assert again.info.run_id == parent.info.run_id
    assert [nested[number].info.status for number in range(6)] == [
        *("FINISHED", "KILLED", "KILLED", "FAILED", "FINISHED", "FINISHED")
    ]
    assert nested[0].data.metrics.items() >= {"accuracy": 0.9, "accuracy_stderr": 0.02, "seconds/total": 1.75}.items()
    assert nested[1].data.params["sparsity/layer1.0.conv1"] == "0.5"
    assert nested[1].data.tags["autoprune.reason"] == "mflops by 20.0 %"
    assert "NonFiniteError: the loss is NaN" in nested[3].data.tags["autoprune.reason"]
    assert [each.path for each in used.list_artifacts(nested[5].info.run_id)] == ["policy.json"]
    assert again.data.params["finetune.lr"] == "0.03"
    assert again.data.metrics["best/trial"] == 0
    history = used.get_metric_history(parent.info.run_id, "search/trials")
    assert [(point.step, point.value) for point in history] == [(number, number + 1) for number in range(6)]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_study_that_is_begun_anew_is_not_mixed_with_the_old_one(folder: Path, name: str) -> None:
    logged_session(name, folder, 0, 4)
    logged_session(name, folder, 0, 2)
    logged_session(name, folder, 2, 3)
    if name == "mlflow":
        assert set(runs(folder)[1]) == {0, 1, 2}
    else:
        assert set(steps(folder / "tensorboard", "search/trials")) == {0, 1, 2}
        assert [path.name for path in sorted((folder / "tensorboard" / "trials").iterdir())] == ["00000"]


def test_mlflow_leaves_a_run_alone_that_somebody_made_beneath_the_study(folder: Path) -> None:
    logged_session("mlflow", folder, 0, 1)
    parent, _ = runs(folder)
    used = client(f"sqlite:///{folder / 'mlflow.db'}")
    mine = used.create_run(parent.info.experiment_id, tags={"mlflow.parentRunId": parent.info.run_id}).info.run_id
    logged_session("mlflow", folder, 1, 2)
    assert used.get_run(mine).info.lifecycle_stage == "active"
    used.delete_run(mine)
    assert set(runs(folder)[1]) == {0, 1}


def test_another_place_to_track_has_a_parent_of_its_own_with_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(folder / "mlflow.db", folder / "elsewhere.db")
    logged_session("mlflow", folder, 0, 2)
    uri = f"sqlite:///{folder / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    monkeypatch.chdir(folder)
    logged_session("mlflow", folder, 2, 3)
    parent, nested = runs(folder, uri)
    assert set(nested) == {0, 1, 2}
    assert client(uri).get_experiment(parent.info.experiment_id).name == "ours"
    client(uri).delete_run(parent.info.run_id)
    logged_session("mlflow", folder, 3, 3)
    assert set(runs(folder, uri)[1]) == {0, 1, 2}, "a parent that was deleted is begun anew"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert set(runs(folder)[1]) == {0, 1}


def test_a_server_that_is_away_does_not_end_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings: list[str] = []
    loggers = Loggers.named(["mlflow"], warnings.append)
    with loggers.session(example_study(tmp_path), []):
        loggers.told(example_trials()[0])
    (warning,) = warnings
    assert "logger mlflow failed" in warning
    assert "127.0.0.1" in warning
