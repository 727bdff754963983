"""Copies of the stored trials: of a SQLite file as a whole, or study by study between any two storages.

A copy of a SQLite file is one moment of it, taken by SQLite's own backup even while a search is writing.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna

from autoprune.errors import StudyError, UsageError
from autoprune.study.optuna_tables import RENAME, rename_study
from autoprune.study.storage import open_storage, reporting_faults
from autoprune.study.storage_url import sqlite_path, without_password


def backup_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite file as it is at this moment, and check the copy.

    Args:
        source: the file, which another process may be writing.
        target: a file that does not exist yet.

    Raises:
        StudyError: if the source is damaged or the target cannot be written; no target is left behind then.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=60)) as original,
            closing(sqlite3.connect(target, timeout=60)) as copy,
        ):
            original.backup(copy)
            copy.execute("PRAGMA journal_mode=WAL")  # as every study is opened: later readers change nothing
            verdict = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.splitlines()[0])
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise StudyError(
            f"the trials in {str(source)!r} cannot be copied: {error}. Expected a SQLite file that is whole and may be "
            f"read; restore it from a copy, or free the disk"
        ) from error


def rename_in_sqlite(path: Path, old: str, new: str) -> None:
    """Give a study another name in a SQLite file that nobody else has open.

    Raises:
        StudyError: if the file holds no study of the old name.
    """
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            changed = connection.execute(RENAME, {"old": old, "new": new}).rowcount
    except sqlite3.Error as error:
        raise StudyError(f"the study in {str(path)!r} cannot be renamed: {error}") from error
    if changed != 1:
        raise StudyError(f"{str(path)!r} holds no study named {old!r}; expected the name that resolved.toml gives")


def has_study(url: str, name: str) -> bool:
    """Return whether a storage holds a study of a name.

    Raises:
        StudyError: if the storage cannot be read.
    """
    storage = open_storage(url)
    with reporting_faults(url):
        return name in optuna.get_all_study_names(storage)


def copy_study(url: str, name: str, to_url: str, to_name: str) -> None:
    """Copy a study from one storage into another, or into the same under another name.

    Raises:
        UsageError: if the target holds a study of that name.
        StudyError: if the source holds none, or a storage cannot be read or written.
    """
    source = open_storage(url)
    target = source if to_url == url else open_storage(to_url)
    with reporting_faults(url):
        try:
            optuna.copy_study(from_study_name=name, from_storage=source, to_storage=target, to_study_name=to_name)
        except KeyError as error:
            raise StudyError(f"the storage {without_password(url)!r} holds no study named {name!r}") from error
        except optuna.exceptions.DuplicatedStudyError as error:
            raise UsageError(
                f"the storage {without_password(to_url)!r} holds a study named {to_name!r} already; give another name"
            ) from error


def delete_study(url: str, name: str) -> bool:
    """Delete a study from a storage, with its trials; return whether there was one.

    Raises:
        StudyError: if the storage cannot be read or written.
    """
    file = sqlite_path(url)
    if file is not None and not file.exists():
        return False  # to open it would make it
    storage = open_storage(url)
    with reporting_faults(url):
        try:
            optuna.delete_study(study_name=name, storage=storage)
        except KeyError:
            return False
    return True


def take_name(url: str, building: str, name: str) -> None:
    """Give a study the name of another one, which is deleted if there is one.

    The name changes hands in one transaction: whenever the process is killed, it stands for a whole study.

    Args:
        url: of the storage that holds both.
        building: what the study is called until now.
        name: its new name.

    Raises:
        StudyError: if the storage cannot be read or written.
    """
    storage, former = open_storage(url), f"{building}, replaced"
    delete_study(url, former)  # of a process that was killed
    with reporting_faults(url), storage.engine.begin() as connection:
        for old, new in ((name, former), (building, name)):
            rename_study(connection, old, new)
    delete_study(url, former)
