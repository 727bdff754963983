"""The critical section of a study: milliseconds in which one worker alone asks or tells.

On one machine a file lock keeps the others out. Where a database serves many machines, PostgreSQL's advisory lock does,
which ends with the connection of whoever held it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy import text

from autoprune.core.file_lock import ALONE
from autoprune.errors import StudyError
from autoprune.study.lock import open_lock
from autoprune.study.storage import bare_connection
from autoprune.study.storage_url import POSTGRESQL, serves_many_machines

PATIENCE = 300.0  # seconds; each of thousands of workers is there for some milliseconds
_PAUSE = 0.002  # seconds between two tries


def serves_many(storage: RDBStorage) -> bool:
    """Return whether workers on several machines may share a storage."""
    return storage.engine.dialect.name == POSTGRESQL


@contextmanager
def alone(path: Path, storage: RDBStorage | None, name: str) -> Iterator[None]:
    """Be the only worker of a study that is here.

    Args:
        path: of the file that is locked among workers of one folder.
        storage: holds the study; ``None`` before it is open.
        name: of the study.

    Raises:
        StudyError: if somebody else does not leave.
        SQLAlchemyError: if the database cannot be reached.
    """
    began = time.monotonic()
    with _file_lock(path):
        if storage is None or not serves_many(storage):
            yield
            return
        with storage.engine.connect() as connection, connection.begin():
            left = max(1, int(1000 * (PATIENCE - (time.monotonic() - began))))
            connection.execute(text(f"SET LOCAL lock_timeout = '{left}ms'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": advisory_key(name)})
            yield


@contextmanager
def making_tables(url: str) -> Iterator[None]:
    """Be the only process of all machines that opens a database for the first time, and makes its tables.

    Args:
        url: of the storage; nothing is done but for PostgreSQL.

    Raises:
        StudyError: if the database cannot be reached.
    """
    if not serves_many_machines(url):
        yield
        return
    with bare_connection(url) as connection, connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": advisory_key("")})
        yield


def advisory_key(name: str) -> int:
    """Return a number of 63 bits for a study's name.

    >>> advisory_key("digits") == advisory_key("digits") != advisory_key("digits2")
    True
    """
    return int.from_bytes(hashlib.sha256(f"autoprune:{name}".encode()).digest()[:8], "big") >> 1


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    lock = open_lock(path)
    try:
        if not lock.wait(ALONE, PATIENCE, _PAUSE):
            raise StudyError(
                f"another worker of this study has held {str(path)!r} for {PATIENCE:g} s, as a stopped process does; "
                f"continue or kill it, and run the same command again"
            )
        yield
    finally:
        lock.release()
