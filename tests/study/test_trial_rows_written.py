"""A running trial written in one go is, column by column, the one that Optuna writes."""

from __future__ import annotations

import datetime
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url
from autoprune.study.trial_format import NewTrial, TrialPlace
from autoprune.study.trial_rows import ApiRows, TableRows

SPACE: dict[str, BaseDistribution] = {
    "layer1.0.conv1.sparsity": FloatDistribution(0.0, 0.9),
    "layer1.0.conv1.importance": CategoricalDistribution(("l2", "fpgm")),
}
COLUMNS = {
    "trials": "number, study_id, state, datetime_complete",
    "trial_params": "param_name, param_value, distribution_json",
    "trial_user_attributes": "key, value_json",
    "trial_system_attributes": "key, value_json",
    "trial_values": "objective, value",
}


def _study(folder: Path, name: str) -> tuple[RDBStorage, int]:
    storage = open_storage(sqlite_url(folder / f"{name}.db"))
    optuna.create_study(storage=storage, study_name="one", directions=["maximize", "minimize"])
    return storage, storage.get_study_id_from_name("one")


def store_running(
    storage: RDBStorage,
    study_id: int,
    params: dict[str, Any],
    space: dict[str, BaseDistribution],
    attrs: dict[str, str],
) -> TrialPlace:
    return TableRows(storage, study_id).add(NewTrial(params, space, attrs))


def _rows(file: Path) -> dict[str, list[Any]]:
    with sqlite3.connect(file) as connection:
        found = {
            table: connection.execute(f"SELECT {names} FROM {table}").fetchall() for table, names in COLUMNS.items()
        }
    connection.close()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("writing")


@pytest.fixture(scope="module")
def ours(folder: Path) -> tuple[RDBStorage, int]:
    return _study(folder, "ours")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> tuple[RDBStorage, int]:
    return _study(folder, "theirs")


@settings(max_examples=15, deadline=None)
@given(
    sparsity=st.floats(0.0, 0.9),
    importance=st.sampled_from(["l2", "fpgm"]),
    attributes=st.dictionaries(st.sampled_from(["candidate", "ünï"]), st.text(max_size=30)),
)
def test_it_is_what_optuna_writes(
    folder: Path,
    ours: tuple[RDBStorage, int],
    theirs: tuple[RDBStorage, int],
    sparsity: float,
    importance: str,
    attributes: dict[str, str],
) -> None:
    params = dict(zip(SPACE, (sparsity, importance), strict=True))
    trial = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=params, distributions=SPACE, user_attrs=attributes
    )
    (storage, study_id), (other, other_id) = ours, theirs
    before = datetime.datetime.now()
    place = store_running(storage, study_id, params, SPACE, attributes)
    found = storage.get_trial(place.trial_id)
    expected = other.get_trial(other.create_new_trial(other_id, template_trial=trial))
    assert (place.number, found.state, found.params, found.distributions, found.user_attrs, found.values) == (
        expected.number,
        TrialState.RUNNING,
        expected.params,
        expected.distributions,
        expected.user_attrs,
        None,
    )
    assert found.number == place.number
    assert found.datetime_start is not None
    assert before <= found.datetime_start <= datetime.datetime.now()
    assert _rows(folder / "ours.db") == _rows(folder / "theirs.db")


def test_studies_of_one_storage_number_their_own_trials(tmp_path: Path) -> None:
    storage, first = _study(tmp_path, "shared")
    second = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "two")
    params = {"layer1.0.conv1.sparsity": 0.5, "layer1.0.conv1.importance": "l2"}
    stored = [store_running(storage, study, params, SPACE, {}) for study in (first, second, first)]
    assert [place.number for place in stored] == [0, 0, 1]
    assert [storage.get_trial_number_from_id(place.trial_id) for place in stored] == [0, 0, 1]


@pytest.mark.parametrize("sparsity", [0.95, -0.1])
def test_a_value_outside_its_range_is_refused(tmp_path: Path, sparsity: float) -> None:
    storage, study_id = _study(tmp_path, "refusing")
    params = {"layer1.0.conv1.sparsity": sparsity, "layer1.0.conv1.importance": "l2"}
    with pytest.raises(ValueError, match=rf"'layer1.0.conv1.sparsity' is {sparsity}, outside of"):
        store_running(storage, study_id, params, SPACE, {})
    assert not storage.get_all_trials(study_id)


def test_nothing_is_stored_if_a_part_cannot_be(tmp_path: Path) -> None:
    storage, study_id = _study(tmp_path, "half")
    with sqlite3.connect(tmp_path / "half.db") as connection:
        connection.execute("DROP TABLE trial_user_attributes")
    connection.close()
    params = {"layer1.0.conv1.sparsity": 0.5, "layer1.0.conv1.importance": "l2"}
    with pytest.raises(SQLAlchemyError, match="no such table"):
        store_running(storage, study_id, params, SPACE, {"candidate": "{}"})
    with sqlite3.connect(tmp_path / "half.db") as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("trials", "trial_params")]
    connection.close()
    assert counts == [0, 0]


@pytest.mark.parametrize("kind", [TableRows, ApiRows])
def test_a_trial_that_was_opened_is_completed(tmp_path: Path, kind: type[TableRows | ApiRows]) -> None:
    storage, study_id = _study(tmp_path, "opened")
    place = TrialPlace(storage.create_new_trial(study_id), 0)
    params = {"layer1.0.conv1.sparsity": 0.5, "layer1.0.conv1.importance": "fpgm"}
    kind(storage, study_id).complete(place, NewTrial(params, SPACE, {"candidate": "{}"}))
    found = storage.get_trial(place.trial_id)
    assert (found.state, found.params, found.distributions) == (TrialState.RUNNING, params, SPACE)
    assert found.user_attrs == {"candidate": "{}"}


@pytest.mark.parametrize("noted", [{}, {"nsga2:generation": 3}])
def test_both_ways_write_the_same(tmp_path: Path, noted: dict[str, int]) -> None:
    params = {"layer1.0.conv1.sparsity": 0.25, "layer1.0.conv1.importance": "l2"}
    for name, kind in (("tables", TableRows), ("api", ApiRows)):
        rows = kind(*_study(tmp_path, name))
        assert [rows.add(NewTrial(params, SPACE, {"candidate": "{}"}, noted)).number for _ in range(2)] == [0, 1]
    assert _rows(tmp_path / "tables.db") == _rows(tmp_path / "api.db")


@pytest.mark.parametrize("kind", [TableRows, ApiRows])
def test_neither_way_takes_a_value_outside_its_range(tmp_path: Path, kind: type[TableRows | ApiRows]) -> None:
    storage, study_id = _study(tmp_path, "outside")
    params = {"layer1.0.conv1.sparsity": 0.95, "layer1.0.conv1.importance": "l2"}
    with pytest.raises(ValueError, match="outside of"):
        kind(storage, study_id).add(NewTrial(params, SPACE, {}))
    assert not storage.get_all_trials(study_id)
