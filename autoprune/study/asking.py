"""The critical section of a study: milliseconds in which one worker alone asks or tells.

On one machine a file lock keeps the others out. Where a database serves many machines, PostgreSQL's advisory lock does,
which ends with the transaction of whoever holds it; there workers wait in a queue, and none has to try again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from autoprune.core.file_lock import ALONE
from autoprune.errors import StudyError
from autoprune.study.lock import open_lock
from autoprune.study.storage import bare_connection
from autoprune.study.storage_url import POSTGRESQL, serves_many_machines

PATIENCE = 300.0  # seconds; each of thousands of workers is there for some milliseconds
_PAUSE, _LONGEST_PAUSE = 0.001, 0.016  # seconds between two tries: 64 workers that try each millisecond fill a core
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code
_LOCK = text("SELECT set_config('lock_timeout', :patience, true), pg_advisory_xact_lock(:key)")


@contextmanager
def alone(path: Path, connection: Connection, name: str) -> Iterator[None]:
    """Be the only worker of a study that is here.

    Args:
        path: of the file that is locked among workers of one machine.
        connection: to the storage of the study; what is written on it is committed before the next worker is let in.
        name: of the study.

    Raises:
        StudyError: if somebody else does not leave.
        SQLAlchemyError: if the database cannot be reached.
    """
    if connection.dialect.name != POSTGRESQL:
        with alone_here(path):
            yield
            connection.commit()
        return
    try:
        connection.execute(_LOCK, {"patience": f"{int(1000 * PATIENCE)}ms", "key": advisory_key(name)})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise _held(f"the lock of study {name!r} in the database") from error
    yield
    connection.commit()


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
def alone_here(path: Path) -> Iterator[None]:
    """Be the only worker of a folder that is here.

    Args:
        path: of the file that is locked.

    Raises:
        StudyError: if somebody else does not leave.
    """
    lock = open_lock(path)
    try:
        if not lock.wait(ALONE, PATIENCE, _PAUSE, _LONGEST_PAUSE):
            raise _held(repr(str(path)))
        yield
    finally:
        lock.release()


def _held(what: str) -> StudyError:
    return StudyError(
        f"another worker of this study has held {what} for {PATIENCE:g} s, as a stopped process does; continue or kill "
        f"it, and run the same command again"
    )
