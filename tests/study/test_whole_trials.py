"""Records read from the tables in portions are those that Optuna's API gives, to the last column; a list needs less."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from stored_fakes import FAILED, RUNNING, STOPPED, good, store

from autoprune.analysis.pareto import best_within
from autoprune.core.metrics import ACCURACY
from autoprune.study import optuna_tables, whole_trials
from autoprune.study import storage as storages
from autoprune.study.manage.list import list_studies
from autoprune.study.manage.overview import overview
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url
from autoprune.study.view import open_view

OUTCOMES = [good(0.91), STOPPED, FAILED, RUNNING, good(0.95), good(0.99, mflops=60.0), good(0.94)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store(tmp_path / "studies" / "fake", OUTCOMES).path


def test_tables_in_portions_give_what_the_api_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(sqlite_url(folder / "study.db"))
    study_id = storage.get_study_id_from_name("fake")
    monkeypatch.setattr(whole_trials, "PORTION", 3)
    by_tables = [asdict(trial) for trial in whole_trials.whole_trials(storage, study_id)]
    monkeypatch.setattr(optuna_tables, "KNOWN_SCHEMA", ())
    by_api = [asdict(trial) for trial in whole_trials.whole_trials(storage, study_id)]
    storage.engine.dispose()
    assert len(by_tables) == len(OUTCOMES)
    assert by_tables == by_api
    assert [list(trial["params"]) for trial in by_tables] == [list(trial["params"]) for trial in by_api]


def test_an_overview_says_what_the_whole_study_says(folder: Path) -> None:
    view, seen = open_view(folder), overview(folder / "study.db", "fake", ACCURACY)
    assert seen is not None
    assert (seen.finished, seen.running, seen.facts) == (len(view.trials), view.running, view.facts)
    best = best_within(view.trials, view.budget, view.spec.quality, dense=view.dense)
    assert best is not None
    assert (seen.best_number, seen.best) == (best.number, best.outcome.measurement)  # type: ignore[union-attr]


def shown(folder: Path) -> list[dict[str, object]]:
    """Return the list without what reading a database changes: the size of SQLite's log."""
    return [{**each.to_json(), "size_mb": None} for each in list_studies(folder.parent)]


def test_what_is_unusual_gets_no_overview_and_is_listed_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shown(folder)
    assert overview(folder / "study.db", "another", ACCURACY) is None
    assert overview(folder / "resolved.toml", "fake", ACCURACY) is None
    assert overview(folder / "missing.db", "fake", ACCURACY) is None
    monkeypatch.setattr("autoprune.study.sqlite_rows.KNOWN_SCHEMA", ())
    assert overview(folder / "study.db", "fake", ACCURACY) is None
    assert shown(folder) == expected


def test_a_study_that_may_only_be_read_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_view(folder)
    monkeypatch.setattr(storages, "may_write", lambda file: False)  # as for another user, or on a read-only disk
    assert open_view(folder) == before
