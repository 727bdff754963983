"""Where a study is stored: SQLite in its folder, or any Optuna storage URL.

SQLite is opened in WAL mode with ``synchronous=NORMAL``: a killed process loses nothing that was
committed, readers never block the search, and a trial of sixty parameters costs tens of milliseconds
instead of seconds. WAL needs a local disk; for network file systems give a database URL.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import StudyError
from autoprune.study.storage_url import POSTGRESQL, read_url, sqlite_path, without_password, without_secret

PAUSE = 1.0  # seconds before a lost connection is made anew: a database that is restarted needs a moment
T = TypeVar("T")
# Who waited for a lock sees what the one before wrote, whatever isolation the server's settings say.
_IN_LOCKS: dict[str, dict[str, object]] = {POSTGRESQL: {"isolation_level": "READ COMMITTED"}}

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def open_storage(url: str, *, to_read: bool = False) -> RDBStorage:
    """Open a storage by URL; SQLite is put into WAL mode.

    A connection is tried before it is used, so that one which a database dropped meanwhile is replaced.

    Args:
        url: of the storage.
        to_read: whether it will only be read. SQLite then opens where its log finds no room, too, as on a full disk.

    Raises:
        StudyError: if the storage cannot be opened or is not an Optuna storage.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = read_url(url).render_as_string(hide_password=False)
    file = sqlite_path(url)
    if file is None:
        return _opened(plain, url, {"pool_pre_ping": True, **_IN_LOCKS.get(read_url(url).get_backend_name(), {})})
    if file.is_file() and not may_write(file):
        return _opened_for_reading(file, url)
    try:
        return _opened_for_writing(file, plain, url)
    except StudyError:
        if not (to_read and file.is_file()):
            raise
        return _opened_for_reading(file, url)


def _opened_for_writing(file: Path, plain: str, url: str) -> RDBStorage:
    try:
        with closing(sqlite3.connect(file, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise StudyError(_cannot_open(url, error)) from error
    storage = _opened(plain, url, {"pool_pre_ping": True, "connect_args": {"timeout": 60}})
    _relax_fsync(storage)
    return storage


def may_write(file: Path) -> bool:
    """Return whether this user may write a file."""
    return os.access(file, os.W_OK)


def _opened_for_reading(file: Path, url: str) -> RDBStorage:
    """Open a SQLite file that cannot be written, as on a read-only or full disk; what writes to it later is refused."""
    log = file.with_name(f"{file.name}-wal")  # without it nobody has the file open, and it will not change
    if not log.exists():
        return _opened_as(file, "immutable=1", url)
    try:
        return _opened_as(file, "mode=ro", url)
    except StudyError:
        if log.stat().st_size:
            raise
        return _opened_as(file, "immutable=1", url)  # on a full disk, opening it left an empty log


def _opened_as(file: Path, mode: str, url: str) -> RDBStorage:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True, timeout=60, check_same_thread=False)

    kwargs: dict[str, object] = {"creator": connect}
    try:
        return RDBStorage("sqlite:///read-only", engine_kwargs=kwargs, skip_table_creation=True)
    except Exception as error:  # as below
        raise StudyError(_cannot_open(url, error)) from error


def _opened(plain: str, url: str, engine_kwargs: dict[str, object]) -> RDBStorage:
    braces = {"{": "{{", "}": "}}"}  # Optuna formats it
    try:
        storage = RDBStorage("".join(braces.get(c, c) for c in plain), engine_kwargs=engine_kwargs)
    except Exception as error:  # the driver of any database may raise anything
        raise StudyError(_cannot_open(url, error)) from error
    if storage.engine.dialect.name == POSTGRESQL:
        _tell_time_in_utc(storage)
    return storage


def _tell_time_in_utc(storage: RDBStorage) -> None:
    """Let every connection write and read times in one zone, whatever the environment of its machine says."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    storage.engine.dispose()  # as below


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
            f"the study's storage {without_password(url)!r} could not be read or written: "
            f"{without_secret(_first_cause(error), url)}. "
            f"Finished trials are safe; free the disk or repair the database, then run the same command again"
        ) from error


def tried_again(storage: RDBStorage, url: str, act: Callable[[bool], T]) -> T:
    """Return what a reader or writer of a storage returns; where the connection was lost in its midst, do it once more.

    Args:
        storage: open.
        url: of the storage.
        act: reads or writes; its argument says whether this is the second try, when some of it may be done already.

    Raises:
        StudyError: if the storage cannot be read or written the second time either.
    """
    from sqlalchemy.exc import SQLAlchemyError

    with reporting_faults(url):
        try:
            return act(False)
        except (StorageInternalError, SQLAlchemyError) as error:
            if not _is_lost_connection(error, url):
                raise
            storage.remove_session()
            storage.engine.dispose()
            time.sleep(PAUSE)
            return act(True)


def opened(url: str, opens: Callable[[], T]) -> T:
    """Return what an opener of a storage returns; where the database ended its connection meanwhile, open once more.

    A database that cannot be reached at all is not asked again.

    Args:
        url: of the storage.
        opens: leaves nothing behind that keeps it from being called again.

    Raises:
        StudyError: if the storage cannot be opened, or not the second time either.
    """
    from sqlalchemy.exc import SQLAlchemyError

    with reporting_faults(url):
        try:
            return opens()
        except (StudyError, StorageInternalError, SQLAlchemyError) as error:
            if not any(getattr(cause, "connection_invalidated", False) for cause in _causes(error)):
                raise
        time.sleep(PAUSE)
        return opens()


def _is_lost_connection(error: BaseException, url: str) -> bool:
    """Return whether the database ended the connection or could not be reached, rather than refused what was asked."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    def is_on_the_way(cause: BaseException) -> bool:
        return isinstance(cause, InterfaceError | OperationalError) and not url.startswith("sqlite")

    return any(is_on_the_way(cause) or getattr(cause, "connection_invalidated", False) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give an error, what caused it, and so on."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


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
def bare_connection(url: str) -> Iterator[Connection]:
    """Give a bare connection to a database, before it is known to hold what Optuna stores.

    Raises:
        StudyError: if it cannot be reached, or its driver is not installed.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(read_url(url))
        connection = engine.connect()
    except (SQLAlchemyError, ImportError) as error:
        raise StudyError(_cannot_open(url, error)) from error
    try:
        with connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def closing_storage(url: str, *, to_read: bool = False) -> Iterator[RDBStorage]:
    """Open a storage to read or write once, and close its connections afterwards.

    A connection left open is one more for each refresh of a live view, and keeps SQLite's log beside the file.

    Args:
        url: of the storage.
        to_read: whether it is only read.

    Raises:
        StudyError: if the storage cannot be opened, read or written.
    """
    storage = opened(url, lambda: open_storage(url, to_read=to_read))
    try:
        with reporting_faults(url):
            yield storage
    finally:
        storage.engine.dispose()


def facts_in(storage: RDBStorage, name: str) -> dict[str, Any] | None:
    """Return what a storage holds about a study as a whole; ``None`` if there is no such study."""
    try:
        stored = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
    except KeyError:
        return None
    return {key: parse_json(value) for key, value in stored.items()}


def _first_cause(error: BaseException) -> str:
    """Return what the database itself said, on one line."""
    while (cause := getattr(error, "orig", None) or error.__cause__) is not None:
        error = cause
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _relax_fsync(storage: RDBStorage) -> None:
    """Let every SQLite connection commit to the log without waiting for the disk."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.engine.dispose()  # connections opened while the tables were made come back with the setting


def _cannot_open(url: str, error: Exception) -> str:
    detail = without_secret(_first_cause(error), url)
    if isinstance(error, ImportError):
        return (
            f"the study's storage {without_password(url)!r} cannot be opened, because its driver is not installed: "
            f"{detail}. For PostgreSQL install autoprune with the extra [postgres]; for another database, its driver"
        )
    return (
        f"the study's storage {without_password(url)!r} cannot be opened: {detail}. Expected an Optuna "
        f"storage that this user may read and write; check the path, its permissions and the free disk space"
    )
