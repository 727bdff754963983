"""A study is read without its parameters, and seen as Optuna sees it; what is damaged is said."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from study_fakes import OBJECTIVES, make_proposals, open_ledger, run

from autoprune.core.metrics import Measurement
from autoprune.core.trial import Completed, Failed
from autoprune.errors import StudyError
from autoprune.study import read_trials as reading
from autoprune.study.folder import StudyFolder
from autoprune.study.read_trials import Follower, StoredTrial, stored_trials
from autoprune.study.records import read_trials
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.storage import open_storage, sqlite_url
from autoprune.study.view import open_view


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study with trials of every ending, a running one and one that another study has."""
    folder = tmp_path_factory.mktemp("reading")
    write_resolved(StudySpec(name="fake", objectives=OBJECTIVES), StudyFolder(folder).resolved)
    proposals = make_proposals()
    with open_ledger(folder) as ledger:
        ledger.remember("dense", proposals.dense.to_json())
        list(run(ledger, proposals, 9))
        ledger.ask(proposals, 0)
    other = optuna.create_study(storage=sqlite_url(folder / "study.db"), study_name="other")
    other.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"candidate": "{}", "outcome": "{}"}))
    return folder


def test_it_is_what_optuna_reads(stored: Path) -> None:
    storage = open_storage(sqlite_url(stored / "study.db"))
    study_id = storage.get_study_id_from_name("fake")
    found, expected = stored_trials(storage, study_id), storage.get_all_trials(study_id)
    assert len(found) == 10
    assert [(one.number, one.state) for one in found] == [(one.number, one.state) for one in expected]
    for one, theirs in zip(found, expected, strict=True):
        assert one.user_attrs == {k: v for k, v in theirs.user_attrs.items() if k in ("candidate", "outcome")}
    assert read_trials(found) == read_trials(expected)
    view = open_view(stored)
    assert (list(view.trials), view.running) == (read_trials(expected), 1)


def test_a_follower_reads_what_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proposals = make_proposals()
    read: list[int] = []

    def counted(storage: RDBStorage, study_id: int, first: int = 0) -> list[StoredTrial]:
        found = stored_trials(storage, study_id, first)
        read.append(len(found))
        return found

    with open_ledger(tmp_path) as ledger:
        storage = open_storage(sqlite_url(tmp_path / "study.db"))
        study_id = storage.get_study_id_from_name("fake")
        follower = Follower(storage, study_id)
        monkeypatch.setattr(reading, "stored_trials", counted)
        assert follower.trials() == []
        first, second, third = (ledger.ask(proposals, 0) for _ in range(3))
        assert [trial.state for trial in follower.trials()] == [TrialState.RUNNING] * 3
        read.clear()
        ledger.tell(second, Failed("E", "of a later one first"), {})
        assert follower.trials() == stored_trials(storage, study_id)
        ledger.tell(first, Failed("E", "and then"), {})
        assert follower.trials() == stored_trials(storage, study_id)
        ledger.tell(third, Failed("E", "last"), {})
        for _ in range(2):
            assert follower.trials() == stored_trials(storage, study_id)
    assert read == [3, 3, 1, 0]  # what has ended before the first running one is not read again


@pytest.mark.parametrize(
    ("table", "told", "said"),
    [
        ("trial_user_attributes", "NaN", r"a trial in .*study\.db.* is damaged .*finite numbers only"),
        ("study_user_attributes", "Infinity", r"its dense network is damaged .*finite numbers"),
    ],
)
def test_a_number_that_is_not_finite_is_said(stored: Path, tmp_path: Path, table: str, told: str, said: str) -> None:
    (tmp_path / "resolved.toml").write_bytes((stored / "resolved.toml").read_bytes())
    with sqlite3.connect(stored / "study.db") as connection:
        connection.execute("VACUUM INTO ?", [str(tmp_path / "study.db")])
    connection.close()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        right, wrong = r'"accuracy\": 0', rf'"accuracy\": {told}, \"was\": 0'
        change = f"UPDATE {table} SET value_json = replace(value_json, ?, ?)"
        damaged = connection.execute(change, [right, wrong])
        assert damaged.rowcount > 0
        before = list(connection.iterdump())
    connection.close()
    with pytest.raises(StudyError, match=said):
        _ = open_view(tmp_path).dense
    with sqlite3.connect(tmp_path / "study.db") as connection:
        assert list(connection.iterdump()) == before
    connection.close()


@pytest.mark.parametrize(
    ("dense", "texts", "said"),
    [
        ("", ["3:oA==", "400:zz"], r"a trial in .*study\.db.* is damaged .*'400:zz'"),
        ("", ["3:oA==", "4:oA=="], "trial 1 was scored on 4 validation images, those before it on 3"),
        ("4:oA==", ["3:oA=="], "trial 0 was scored on 3 validation images, those before it on 4"),
    ],
)
def test_hits_that_cannot_be_compared_are_said(tmp_path: Path, dense: str, texts: list[str], said: str) -> None:
    write_resolved(StudySpec(name="fake", objectives=OBJECTIVES), StudyFolder(tmp_path).resolved)
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        ledger.remember("dense_correct", dense)
        for text in texts:
            candidate = ledger.ask(proposals, 0)
            measured = Measurement({"accuracy": 0.5, "loss": 1.0, "mflops": 1.0})
            ledger.tell(candidate, Completed(measured, text), {})
    with pytest.raises(StudyError, match=said):
        open_view(tmp_path)
