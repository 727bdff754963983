"""A study in a SQLite file, read without Optuna and SQLAlchemy, which take a second to load.

It reads the tables that :data:`KNOWN_SCHEMA` names. Where they are others, or anything else is unusual, it reads
nothing, and ``view`` goes through Optuna, which says what is wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.study.at_work import AtWork, at_work
from autoprune.study.lapsed_leases import GRACE_SECONDS, still_held
from autoprune.study.table_schema import CANDIDATE, KNOWN_SCHEMA, OUTCOME, RUNNING
from autoprune.study.trial_format import StoredTrial

VERSIONS = "SELECT version_num FROM alembic_version"
STUDY = "SELECT study_id FROM studies WHERE study_name = ?"
FACTS = "SELECT key, value_json FROM study_user_attributes WHERE study_id = ?"
_TRIALS = """
    SELECT trials.number, trials.state, attributes.key, attributes.value_json FROM trials
    LEFT JOIN trial_user_attributes AS attributes
        ON attributes.trial_id = trials.trial_id AND attributes.key IN (?, ?)
    WHERE trials.study_id = ? ORDER BY trials.number
"""
_SILENT = """
    SELECT trials.number FROM trials
    LEFT JOIN trial_heartbeats AS beats ON beats.trial_id = trials.trial_id
    WHERE trials.study_id = ? AND trials.state = ?
        AND (beats.heartbeat IS NULL OR datetime(beats.heartbeat) < datetime('now', ?))
"""


class RowState(Enum):
    """How a stored trial ended, or that it has not; by the names that Optuna stores."""

    RUNNING, WAITING, COMPLETE, PRUNED, FAIL = "RUNNING", "WAITING", "COMPLETE", "PRUNED", "FAIL"

    def is_finished(self) -> bool:
        """Return whether the trial has ended."""
        return self not in (RowState.RUNNING, RowState.WAITING)


@dataclass(frozen=True)
class StoredStudy:
    """What is stored of a study, at one moment.

    Attributes:
        trials: all of them, by Optuna's number; running ones and lost ones too.
        facts: key → text of what is stored about the study as a whole.
        working: the candidates that have no outcome yet.
    """

    trials: list[StoredTrial]
    facts: Mapping[str, str]
    working: tuple[AtWork, ...]


def read_sqlite(file: Path, name: str, folder: Path) -> StoredStudy | None:
    """Return what a SQLite file holds of a study; ``None`` if it has to be read by Optuna.

    Args:
        file: which a search may be writing.
        name: of the study in it.
        folder: of the study, where its workers hold their locks.
    """
    try:
        with closing(open_to_read(file)) as connection:
            return _read(connection, name, folder)
    except (sqlite3.Error, *DAMAGE):
        return None  # whoever reads it by Optuna says what is wrong


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a SQLite file that is only read.

    Where it may be written, it is opened so: a connection that may not would leave files of SQLite's own beside it.
    """
    connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
    connection.execute("PRAGMA query_only = ON")
    return connection


def known_study(connection: sqlite3.Connection, name: str) -> int | None:
    """Return the id of a study in known tables; ``None`` if there is none. What follows is read at one moment."""
    versions = {version for (version,) in connection.execute(VERSIONS)}
    found = connection.execute(STUDY, (name,)).fetchone()
    if found is None or not versions <= set(KNOWN_SCHEMA):
        return None
    connection.execute("BEGIN")
    return int(found[0])


def facts_of(connection: sqlite3.Connection, study: int) -> dict[str, Any]:
    """Return what is stored about a study as a whole: an attribute's value is JSON, and ours a text in it."""
    return {key: parse_json(value) for key, value in connection.execute(FACTS, (study,))}


def _read(connection: sqlite3.Connection, name: str, folder: Path) -> StoredStudy | None:
    study = known_study(connection, name)
    if study is None:
        return None
    trials = _trials(connection.execute(_TRIALS, (CANDIDATE, OUTCOME, study)))
    held = still_held(trials, folder, partial(_silent, connection, study), GRACE_SECONDS)
    return StoredStudy(trials, facts_of(connection, study), at_work(trials, held))


def _silent(connection: sqlite3.Connection, study: int, seconds: float) -> set[int]:
    """Return Optuna's numbers of the running trials without a heartbeat for so long, by the database's clock."""
    return {number for (number,) in connection.execute(_SILENT, (study, RUNNING, f"-{seconds:.0f} seconds"))}


def _trials(rows: Iterable[tuple[int, str, str | None, str | None]]) -> list[StoredTrial]:
    attributes: dict[int, dict[str, Any]] = {}
    states: dict[int, RowState] = {}
    for number, state, key, value in rows:
        states[number] = RowState[state]
        held = attributes.setdefault(number, {})
        if key is not None and value is not None:
            held[key] = parse_json(value)
    return [StoredTrial(number, state, attributes[number]) for number, state in states.items()]
