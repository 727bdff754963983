"""Where a study is stored: SQLite in its folder, or any Optuna storage URL.

SQLite is opened in WAL mode with ``synchronous=NORMAL``: a killed process loses nothing that was
committed, readers never block the search, and a trial of sixty parameters costs tens of milliseconds
instead of seconds. WAL needs a local disk; for network file systems give a database URL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autoprune.core.json_values import DAMAGE
from autoprune.errors import StudyError


def sqlite_url(path: Path) -> str:
    """Return the storage URL of a SQLite file.

    Raises:
        StudyError: if a URL cannot hold the path.
    """
    if "?" in str(path.absolute()):
        raise StudyError(f"{str(path)!r} has a '?' in its path, which no storage URL can hold; choose another folder")
    return f"sqlite:///{path.absolute()}"


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite URL, or ``None`` for any other storage."""
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def open_storage(url: str) -> RDBStorage:
    """Open a storage by URL; SQLite is put into WAL mode.

    Raises:
        StudyError: if the storage cannot be opened or is not an Optuna storage.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not url.startswith("sqlite"):
        return _opened(url, {})
    path = Path(url.removeprefix("sqlite:///"))
    try:
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    except sqlite3.Error as error:
        raise StudyError(_cannot_open(url, error)) from error
    storage = _opened(url, {"connect_args": {"timeout": 60}})
    return storage


def _opened(url: str, engine_kwargs: dict[str, object]) -> RDBStorage:
    try:
        storage = RDBStorage(url, engine_kwargs=engine_kwargs)
    except Exception as error:  # the driver of any database may raise anything
        raise StudyError(_cannot_open(url, error)) from error
    if url.startswith("sqlite"):
        _relax_fsync(storage)
    return storage


@contextmanager
def reporting_faults(url: str) -> Iterator[None]:
    """Turn what a database raises while it is read or written into a :class:`StudyError`.

    Raises:
        StudyError: naming the storage and what the database said, such as a full disk.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        raise StudyError(
            f"the study's storage {without_password(url)!r} could not be read or written: {_first_cause(error)}. "
            f"Finished trials are safe; free the disk or repair the database, then run the same command again"
        ) from error


@contextmanager
def reporting_damage(url: str) -> Iterator[None]:
    """Turn what records raise that are not what autoprune wrote into a :class:`StudyError`.

    Raises:
        StudyError: naming the storage and what is wrong.
    """
    try:
        yield
    except DAMAGE as error:
        raise StudyError(
            f"a record in the study's storage {without_password(url)!r} is damaged ({type(error).__name__}: {error}); "
            f"expected what autoprune wrote, all numbers finite: restore the storage from a copy"
        ) from error


@contextmanager
def closing_storage(url: str) -> Iterator[RDBStorage]:
    """Open a storage to read or write once, and close its connections afterwards.

    A connection left open is one more for each refresh of a live view, and keeps SQLite's log beside the file.

    Raises:
        StudyError: if the storage cannot be opened, read or written.
    """
    storage = open_storage(url)
    try:
        with reporting_faults(url):
            yield storage
    finally:
        storage.engine.dispose()


def _first_cause(error: BaseException) -> str:
    """Return what the database itself said, on one line."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def without_password(url: str) -> str:
    """Return a URL as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url


def _relax_fsync(storage: RDBStorage) -> None:
    """Let every SQLite connection commit to the log without waiting for the disk."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections opened while the tables were made come back with the setting


def _cannot_open(url: str, error: Exception) -> str:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"the study's storage {without_password(url)!r} cannot be opened: {detail}. Expected an Optuna "
        f"storage that this user may read and write; check the path, its permissions and the free disk space"
    )
