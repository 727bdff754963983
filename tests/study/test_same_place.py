"""A study that is deleted, moved or replaced under a search is noticed at the next ask or tell."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from study_fakes import OBJECTIVES, make_proposals, open_ledger

from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed
from autoprune.errors import StudyError
from autoprune.study.ledger import Ledger
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url

DONE = Completed(Measurement({"accuracy": 0.9, "mflops": 1.0, "latency_ms": 1.0}))


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    moved(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


def without_database(folder: Path) -> None:
    (folder / "study.db").unlink()


def with_another_database(folder: Path) -> None:
    shutil.copy(folder / "study.db", folder / "copy.db")
    (folder / "copy.db").replace(folder / "study.db")


def with_another_study_of_its_name(folder: Path) -> None:
    storage = open_storage(sqlite_url(folder / "study.db"))
    optuna.create_study(storage=storage, study_name="other")
    optuna.delete_study(study_name="fake", storage=storage)
    optuna.create_study(storage=storage, study_name="fake", directions=["maximize", "minimize", "minimize"])
    storage.engine.dispose()


CHANGES = {
    shutil.rmtree: "is gone",
    moved: "is gone",
    replaced: "is another file now",
    without_database: "is gone",
    with_another_database: "is another file now",
    with_another_study_of_its_name: "was deleted, renamed or replaced in the storage",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_what_happened_to_a_study_is_said_at_the_next_tell_and_ask(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    with open_ledger(folder) as ledger:
        for number in range(2):
            candidate = ledger.ask(make_proposals(), 0)
            if number == 0:
                ledger.tell(candidate, DONE, {})
        change(folder)
        with pytest.raises(StudyError, match=CHANGES[change]) as caught:
            ledger.tell(candidate, DONE, {})
        assert "run the same command to go on" in str(caught.value)
        with pytest.raises(StudyError, match=CHANGES[change]):
            ledger.ask(make_proposals(), 0)
        with pytest.raises(StudyError, match=CHANGES[change]):
            ledger.check_place()


def test_trials_in_another_storage_are_missed_there_and_so_is_the_folder(tmp_path: Path) -> None:
    folder, url = tmp_path / "study", sqlite_url(tmp_path / "all.db")
    folder.mkdir()
    with Ledger(url, "fake", OBJECTIVES, folder / "study.lock") as ledger:
        candidate = ledger.ask(make_proposals(), 0)
        shutil.rmtree(folder)
        with pytest.raises(StudyError, match=r"study\.lock' is gone"):
            ledger.tell(candidate, DONE, {})
    with Ledger(url, "fake", OBJECTIVES, tmp_path / "study.lock") as ledger:
        ledger.ask(make_proposals(), 0)
        optuna.delete_study(study_name="fake", storage=url)
        with pytest.raises(StudyError, match="the study 'fake' was deleted"):
            ledger.ask(make_proposals(), 0)


def test_a_backup_and_readers_beside_a_search_are_no_change(tmp_path: Path) -> None:
    from autoprune.study.copy_trials import backup_sqlite

    with open_ledger(tmp_path) as ledger:
        candidate = ledger.ask(make_proposals(), 0)
        backup_sqlite(tmp_path / "study.db", tmp_path / "backup.db")
        open_storage(sqlite_url(tmp_path / "study.db")).engine.dispose()
        assert ledger.tell(candidate, DONE, {}).number == 0
