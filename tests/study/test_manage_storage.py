"""A study that is imported over another in a database: whenever it is cut off, the name stands for a whole study."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from stored_fakes import good, store

from autoprune.study import copy_trials as copies
from autoprune.study.manage.export import export_study
from autoprune.study.manage.import_archive import import_study
from autoprune.study.view import open_view


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'all.db'}"


@pytest.fixture
def archive(tmp_path: Path, url: str) -> Path:
    """Return an archive of three trials; the study of its name in the database has two others."""
    store(tmp_path / "elsewhere" / "fake", [good(0.91), good(0.92), good(0.93)])
    export_study(tmp_path / "elsewhere" / "fake", tmp_path / "fake.zip")
    store(tmp_path / "studies" / "fake", [good(0.51), good(0.52)], storage=url)
    return tmp_path / "fake.zip"


def names(url: str) -> list[str]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return sorted(name for (name,) in connection.execute("SELECT study_name FROM studies"))


def count(root: Path, url: str) -> int:
    return len(open_view(root / "fake", url).trials)


@pytest.mark.parametrize("stored", [0, 2])
def test_one_that_is_cut_off_while_it_writes_leaves_the_old_study(
    archive: Path, tmp_path: Path, url: str, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, left, add = tmp_path / "studies", [None] * stored, optuna.Study.add_trial

    def interrupted(self: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        add(self, trial)

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Study, "add_trial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_study(archive, root, storage=url, force=True)
    assert (names(url), count(root, url)) == (["fake"], 2)
    import_study(archive, root, storage=url, force=True)
    assert (names(url), count(root, url)) == (["fake"], 3)


def test_one_that_is_killed_with_both_stored_leaves_the_new_study_and_is_tidied_up(
    archive: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, delete = tmp_path / "studies", copies.delete_study
    asked: list[str] = []

    def killed(url: str, name: str) -> bool:
        asked.append(name)
        if len(asked) == 2:  # the first looks for what an earlier import has left
            raise SystemExit(137)
        return delete(url, name)

    with monkeypatch.context() as patched:
        patched.setattr(copies, "delete_study", killed)
        with pytest.raises(SystemExit):
            import_study(archive, root, storage=url, force=True)
    assert len(names(url)) == 2
    assert count(root, url) == 3
    import_study(archive, root, storage=url, force=True)
    assert (names(url), count(root, url)) == (["fake"], 3)
