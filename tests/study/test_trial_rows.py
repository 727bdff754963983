"""Trials are read without their parameters, seen as Optuna sees them, by its tables and by its API."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from study_fakes import OBJECTIVES, make_proposals, open_ledger, run

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.trial import Candidate, Completed, Failed, Stopped
from autoprune.errors import StudyError
from autoprune.study import optuna_tables, sqlite_rows
from autoprune.study.at_work import at_work
from autoprune.study.folder import StudyFolder
from autoprune.study.known_trials import KnownTrials
from autoprune.study.lapsed_leases import still_held
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.sqlite_rows import RowState, read_sqlite
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url
from autoprune.study.trial_format import StoredTrial, TrialPlace, candidate_record, read_trials, trial_end
from autoprune.study.trial_rows import ApiRows, TableRows, TrialRows, open_rows
from autoprune.study.view import open_view


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study with trials of every ending, a running one and one that another study has."""
    folder = tmp_path_factory.mktemp("reading")
    write_resolved(StudySpec(name="fake", objectives=OBJECTIVES), StudyFolder(folder).resolved)
    proposals = make_proposals()
    ledger = open_ledger(folder)
    ledger.remember("dense", proposals.dense.to_json())
    list(run(ledger, proposals, 9))
    ledger.ask(proposals, 0)
    ledger.close(gives_back=False)
    other = optuna.create_study(storage=sqlite_url(folder / "study.db"), study_name="other")
    other.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"candidate": "{}", "outcome": "{}"}))
    return folder


@pytest.mark.parametrize("kind", [TableRows, ApiRows])
def test_it_is_what_optuna_reads(stored: Path, kind: type[TableRows | ApiRows]) -> None:
    storage = open_storage(sqlite_url(stored / "study.db"))
    study_id = storage.get_study_id_from_name("fake")
    rows: TrialRows = kind(storage, study_id)
    found, expected = rows.read(), storage.get_all_trials(study_id)
    assert [one.number for one in rows.read(6)] == [7, 8, 9]
    assert len(found) == 10
    assert [(one.number, one.state) for one in found] == [(one.number, one.state) for one in expected]
    for one, theirs in zip(found, expected, strict=True):
        assert one.user_attrs == {k: v for k, v in theirs.user_attrs.items() if k in ("candidate", "outcome")}
    assert read_trials(found) == read_trials(expected)
    view = open_view(stored)
    assert (list(view.trials), view.running) == (read_trials(expected), 1)


def test_a_sqlite_file_is_read_alike_without_optuna(stored: Path, tmp_path: Path) -> None:
    storage = open_storage(sqlite_url(stored / "study.db"))
    study_id = storage.get_study_id_from_name("fake")
    direct, expected = read_sqlite(stored / "study.db", "fake", stored), TableRows(storage, study_id).read()
    assert direct is not None
    assert [(one.number, one.state.name, one.state.is_finished(), one.user_attrs) for one in direct.trials] == [
        (one.number, one.state.name, one.state.is_finished(), one.user_attrs) for one in expected
    ]
    assert direct.facts == storage.get_study_user_attrs(study_id)
    held = still_held(expected, stored, TableRows(storage, study_id).silent, 1.0)
    assert direct.working == at_work(expected, held)
    assert len(direct.working) == 1
    assert {state.name for state in RowState} == {state.name for state in TrialState}
    assert read_sqlite(stored / "study.db", "nosuch", stored) is None
    (tmp_path / "study.db").write_bytes(b"SQLite format 3 no longer")
    assert read_sqlite(tmp_path / "study.db", "fake", tmp_path) is None


@pytest.mark.parametrize("kind", [TableRows, ApiRows])
@pytest.mark.parametrize(
    "outcome",
    [
        Completed(Measurement({"accuracy": 0.5, "loss": 1.0, "mflops": 2.5})),
        Stopped("hopeless", Measurement({"mflops": 2.5})),
        Failed("E", "m"),
    ],
    ids=["completed", "stopped", "failed"],
)
def test_a_trial_ends_as_optuna_would_end_it(
    tmp_path: Path, kind: type[TableRows | ApiRows], outcome: Completed | Stopped | Failed
) -> None:
    proposals, ends = make_proposals(), list[optuna.trial.FrozenTrial]()
    with open_ledger(tmp_path) as ledger:
        for _ in range(2):
            ledger.ask(proposals, 0)
        storage, study = ledger._open.storage, ledger._open.study
        end = trial_end(outcome, {"score": 1.0}, OBJECTIVES)
        ours, theirs = (TrialPlace(one._trial_id, one.number) for one in study.get_trials())
        rows = kind(storage, ledger._open.study_id)
        assert rows.end(ours, end) == TrialState.RUNNING
        for key, value in end.user_attrs.items():
            storage.set_trial_user_attr(theirs.trial_id, key, value)
        study.tell(theirs.number, end.values, state=end.state)
        ends = study.get_trials()
        assert rows.end(ours, trial_end(Failed("late", "m"), {}, OBJECTIVES)) == end.state, "it has ended already"
        assert study.get_trials() == ends, "nothing is written a second time"
        with pytest.raises(KeyError):
            rows.end(TrialPlace(99, 99), end)
    first, second = ends
    assert first.state == second.state == end.state
    assert first.values == second.values == end.values
    assert first.user_attrs["outcome"] == second.user_attrs["outcome"]
    assert first.datetime_complete is not None
    assert second.datetime_complete is not None
    assert abs((first.datetime_complete - second.datetime_complete).total_seconds()) < 60


def test_tables_that_are_not_known_are_left_to_optunas_api(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(sqlite_url(stored / "study.db"))
    study_id = storage.get_study_id_from_name("fake")
    assert isinstance(open_rows(storage, study_id), TableRows)
    expected = open_view(stored).trials
    for module in (optuna_tables, sqlite_rows):
        monkeypatch.setattr(module, "KNOWN_SCHEMA", ("of another release",))
    assert read_sqlite(stored / "study.db", "fake", stored) is None
    assert isinstance(open_rows(storage, study_id), ApiRows)
    assert open_view(stored).trials == expected


def test_a_study_goes_on_by_the_api_where_it_was_begun_by_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Optuna release with other tables must not break a study, nor change what is asked."""
    proposals = make_proposals(sampler="tpe")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with open_ledger(tmp_path / "one") as ledger:
        expected = list(run(ledger, proposals, 14))
    with open_ledger(tmp_path / "two") as ledger:
        found = list(run(ledger, proposals, 6))
        left = ledger.ask(proposals, proposals.seed)
    monkeypatch.setattr(optuna_tables, "KNOWN_SCHEMA", ())
    with open_ledger(tmp_path / "two") as ledger:
        found += run(ledger, proposals, 14)
    assert left == expected[6]
    assert found == expected


class CountedRows(TableRows):
    """Remember which trials were read each time, by Optuna's number."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        super().__init__(storage, study_id)
        self.numbers: list[list[int]] = []

    def read(self, after: int = -1, bare: Collection[int] = (), running: Collection[int] = ()) -> list[StoredTrial]:
        found = super().read(after, bare, running)
        self.numbers.append([record.number for record in found])
        return found


def test_what_is_known_is_not_read_again_and_is_what_is_stored(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        storage = open_storage(sqlite_url(tmp_path / "study.db"))
        study_id = storage.get_study_id_from_name("fake")
        rows, known = CountedRows(storage, study_id), KnownTrials()

        def look() -> None:
            known.take_in(rows)
            stored = TableRows(storage, study_id).read()
            assert known.trials == read_trials(stored)
            assert known.running == [record for record in stored if record.state == TrialState.RUNNING]
            assert known.next_number == len({json.loads(record.user_attrs["candidate"])["number"] for record in stored})

        look()
        first, second, third = (ledger.ask(proposals, 0) for _ in range(3))
        look()
        ledger.tell(second, Failed("E", "of a later one first"), {})
        look()
        assert (known.pending, known.lost) == ([first, third], [])
        ledger.tell(first, Failed("E", "and then"), {})
        for _ in range(2):
            look()
    look()
    assert rows.numbers == [[], [0, 1, 2], [1], [0], [], [2]], "only what is new, or runs no longer"
    assert (known.pending, known.lost, known.records_of_lost(2)) == ([], [third], (2,))
    with open_ledger(tmp_path) as ledger:
        assert ledger.ask(proposals, 0) == third
        look()
        assert (known.pending, known.lost) == ([third], [])
        ledger.tell(third, Failed("E", "at last"), {})
        look()
        assert (known.pending, known.lost, known.next_number) == ([], [], 3)


@pytest.mark.parametrize("kind", [TableRows, ApiRows])
def test_a_trial_that_is_asked_for_is_read_again_until_its_candidate_is_there(
    tmp_path: Path, kind: type[TableRows | ApiRows]
) -> None:
    """A sampler of Optuna's opens its trial before it draws."""
    with open_ledger(tmp_path) as ledger:
        storage, study_id, study = ledger._open.storage, ledger._open.study_id, ledger._open.study
        rows, known = kind(storage, study_id), KnownTrials()
        number = study.ask().number
        known.take_in(rows)
        assert ([record.number for record in known.running], known.pending) == ([number], [])
        candidate = Candidate(0, make_proposals().space.policy(make_proposals().space.full), 1, "sampler:tpe", Budget())
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_user_attr(trial_id, "candidate", candidate_record(candidate, 0, "h:p:1:m"))
        known.take_in(rows)
        assert known.pending == [candidate]


def test_a_damaged_record_is_said_each_time_and_what_came_before_it_is_known(tmp_path: Path) -> None:
    proposals = make_proposals()
    with open_ledger(tmp_path) as ledger:
        list(run(ledger, proposals, 2))
        storage, study_id = ledger._open.storage, ledger._open.study_id
        number = ledger._open.study.ask().number
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        storage.set_trial_user_attr(trial_id, "candidate", "{}")
        known = KnownTrials()
        for _ in range(2):
            with pytest.raises(KeyError):
                known.take_in(TableRows(storage, study_id))
        assert [trial.number for trial in known.trials] == [0, 1]


@pytest.mark.parametrize(
    ("table", "told", "said"),
    [
        ("trial_user_attributes", "NaN", r"a trial in .*study\.db.* is damaged .*finite numbers only"),
        ("study_user_attributes", "Infinity", r"about the study as a whole is damaged .*finite numbers"),
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
        ("", ["3:oA==", "4:oA=="], "trial 1 was scored on 4 validation examples, those before it on 3"),
        ("4:oA==", ["3:oA=="], "trial 0 was scored on 3 validation examples, those before it on 4"),
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
