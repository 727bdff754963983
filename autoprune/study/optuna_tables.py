"""Optuna's own tables, read and written directly: the one file that knows them.

Optuna stores a parameter by two queries and an insert, a tenth of a second for the sixty of a ResNet-56, and builds a
trial from one row for every parameter, value and attribute, ten seconds for 5,000 trials. Here a trial is written in
one transaction, and read from the two attributes that autoprune looks at. Both go by the schema in
:data:`KNOWN_SCHEMA`. Where a release of Optuna brings another, ``trial_rows`` falls back to Optuna's public API, which
is slower and stores the same: ``tests/study/test_trial_rows.py`` holds both to it, column by column.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import BindParameter, Connection, Integer, Select, Table, bindparam, func, insert, select, text, update
from sqlalchemy.sql.elements import ColumnElement

from autoprune.core.json_values import parse_json
from autoprune.study.storage_url import POSTGRESQL
from autoprune.study.table_schema import CANDIDATE, KNOWN_SCHEMA, OUTCOME
from autoprune.study.trial_format import NewTrial, StoredTrial, TrialEnd, TrialPlace


def _numbers(name: str) -> BindParameter[int]:
    """Return any number of numbers, written into the statement: drivers take hundreds of parameters slowly."""
    return bindparam(name, type_=Integer, expanding=True, literal_execute=True)


# an attribute's value is JSON, and ours is JSON within it
_QUERY = text(
    """
    SELECT trials.number, trials.state, attributes.key, attributes.value_json
    FROM trials
    LEFT JOIN trial_user_attributes AS attributes
        ON attributes.trial_id = trials.trial_id AND attributes.key IN (:candidate, :outcome)
    WHERE trials.study_id = :study
        AND (trials.number > :after OR trials.number IN :bare OR (trials.number IN :running AND trials.state <> :runs))
    ORDER BY trials.number
    """
).bindparams(_numbers("bare"), _numbers("running"))
_STUDY = text("SELECT studies.study_id FROM studies WHERE studies.study_name = :name")
RENAME = "UPDATE studies SET study_name = :new WHERE study_name = :old"


def knows_tables(storage: RDBStorage) -> bool:
    """Return whether a storage has the tables that this file knows, and Optuna the models of them."""
    try:
        import optuna.storages._rdb.models  # noqa: F401
    except ImportError:
        return False
    return storage.get_current_version() in KNOWN_SCHEMA


class _Statements(NamedTuple):
    """What is asked of Optuna's tables again and again, made once."""

    beats: Select[Any]
    study_lock: Select[Any]
    trials: Select[Any]


@cache
def _statements() -> _Statements:
    from optuna.storages._rdb.models import StudyModel, TrialHeartbeatModel, TrialModel

    study, trial, heartbeat = (_table(model) for model in (StudyModel, TrialModel, TrialHeartbeatModel))
    is_of_study = trial.c.study_id == bindparam("study")
    beats = select(trial.c.number, heartbeat.c.heartbeat, func.now())
    beats = beats.outerjoin(heartbeat, heartbeat.c.trial_id == trial.c.trial_id)
    study_lock = select(study.c.study_id).where(study.c.study_id == bindparam("study")).with_for_update()
    return _Statements(
        beats.where(is_of_study, trial.c.state == TrialState.RUNNING),
        study_lock,
        select(func.count()).select_from(trial).where(is_of_study),
    )


def study_named(connection: Connection, name: str) -> int | None:
    """Return the id of a study; ``None`` if there is none of that name."""
    found = connection.execute(_STUDY, {"name": name}).scalar()
    return None if found is None else int(found)


def read_rows(
    connection: Connection, study_id: int, after: int, bare: Collection[int], running: Collection[int]
) -> list[StoredTrial]:
    """Return trials of a study as they are at one moment, by number; running ones and lost ones too.

    Args:
        connection: to the storage that holds the study.
        study_id: of the study in that storage.
        after: Optuna's number of a trial; every later one is read.
        bare: numbers of trials that are read as well.
        running: numbers of trials that are read if they run no longer.

    Raises:
        SQLAlchemyError: if the database cannot be read.
    """
    asked = {"study": study_id, "candidate": CANDIDATE, "outcome": OUTCOME, "runs": TrialState.RUNNING.name}
    rows = connection.execute(_QUERY, {**asked, "after": after, "bare": list(bare), "running": list(running)}).all()
    found: dict[int, StoredTrial] = {}
    for number, state, key, value in rows:
        trial = found.setdefault(number, StoredTrial(number, TrialState[state], {}))
        if key is not None:
            found[number] = StoredTrial(number, trial.state, {**trial.user_attrs, key: parse_json(value)})
    return list(found.values())


def silent_numbers(connection: Connection, study_id: int, seconds: float) -> set[int]:
    """Return the numbers of the running trials whose last heartbeat is so many seconds old, by the database's clock.

    Raises:
        SQLAlchemyError: if the database cannot be read.
    """
    rows = connection.execute(_statements().beats, {"study": study_id}).all()
    grace = datetime.timedelta(seconds=seconds)
    return {int(number) for number, beat, now in rows if beat is None or _plain(now) - _plain(beat) > grace}


def _plain(moment: datetime.datetime) -> datetime.datetime:
    """Return a moment of the database without its zone, which some drivers give for one column and not for another."""
    return moment.replace(tzinfo=None)


def insert_running(connection: Connection, study_id: int, new: NewTrial) -> TrialPlace:
    """Store a running trial with its first heartbeat, in the transaction of a connection; return where.

    Args:
        connection: to the storage that holds the study.
        study_id: of the study in that storage.
        new: what is stored.

    Raises:
        ValueError: if a parameter lies outside its distribution.
        SQLAlchemyError: if the database cannot be written; then the transaction is to be rolled back.
    """
    from optuna.storages._rdb.models import TrialModel, TrialSystemAttributeModel

    values = new.internal_values()
    study = {"study": study_id}
    connection.execute(_statements().study_lock, study)  # as Optuna does where it numbers a trial
    number = int(connection.execute(_statements().trials, study).scalar_one())
    begun = {"study_id": study_id, "number": number, "state": TrialState.RUNNING, "datetime_start": _now()}
    key: Any = connection.execute(insert(_table(TrialModel)), begun).inserted_primary_key
    place = TrialPlace(int(key[0]), number)
    _insert_details(connection, place, new, values)
    _insert_many(connection, TrialSystemAttributeModel, _attribute_rows(place, new.system_attrs))
    return place


def insert_details(connection: Connection, place: TrialPlace, new: NewTrial) -> None:
    """Store the parameters, attributes and first heartbeat of a trial that runs without any; otherwise as above."""
    _insert_details(connection, place, new, new.internal_values())


def end_running(connection: Connection, place: TrialPlace, end: TrialEnd) -> TrialState:
    """End a running trial in the transaction of a connection; one that has ended already is left as it is.

    Args:
        connection: to the storage that holds the study.
        place: of the trial.
        end: what is stored.

    Returns:
        the state that it was in.

    Raises:
        KeyError: if there is no such trial.
        SQLAlchemyError: if the database cannot be written; then the transaction is to be rolled back.
    """
    from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel, TrialValueModel

    trials = _table(TrialModel)
    is_it = trials.c.trial_id == place.trial_id
    ended = {"state": end.state, "datetime_complete": _now()}
    if not connection.execute(update(trials).where(is_it, trials.c.state == TrialState.RUNNING), ended).rowcount:
        state = connection.execute(select(trials.c.state).where(is_it)).scalar()
        if state is None:
            raise KeyError(f"no trial {place.trial_id}")
        return TrialState(state)
    values = [TrialValueModel.value_to_stored_repr(value) for value in end.values or ()]
    rows: list[dict[str, object]] = [
        {"trial_id": place.trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(values)
    ]
    _insert_many(connection, TrialUserAttributeModel, _attribute_rows(place, end.user_attrs))
    _insert_many(connection, TrialValueModel, rows)
    return TrialState.RUNNING


def _insert_details(connection: Connection, place: TrialPlace, new: NewTrial, values: Mapping[str, float]) -> None:
    from optuna.storages._rdb.models import TrialHeartbeatModel, TrialParamModel, TrialUserAttributeModel

    rows = [
        {
            "trial_id": place.trial_id,
            "param_name": name,
            "param_value": float(values[name]),
            "distribution_json": _as_json(distribution),
        }
        for name, distribution in new.distributions.items()
    ]
    _insert_many(connection, TrialParamModel, rows)
    _insert_many(connection, TrialUserAttributeModel, _attribute_rows(place, new.user_attrs))
    beat = insert(_table(TrialHeartbeatModel)).values(heartbeat=_clock(connection))
    connection.execute(beat, {"trial_id": place.trial_id})


def _insert_many(connection: Connection, model: type, rows: list[dict[str, object]]) -> None:
    if rows:
        connection.execute(insert(_table(model)), rows)


def _table(model: type) -> Table:
    found: Table = model.__table__  # type: ignore[attr-defined]
    return found


def _clock(connection: Connection) -> ColumnElement[datetime.datetime]:
    """Return the database's time now: a transaction that waits for a lock has begun long ago in PostgreSQL."""
    is_postgresql = connection.dialect.name == POSTGRESQL
    return func.clock_timestamp() if is_postgresql else func.current_timestamp()


def _now() -> datetime.datetime:
    """Return the time as Optuna stores it: UTC, without saying so."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


@lru_cache(maxsize=4096)
def _as_json(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)


def _attribute_rows(place: TrialPlace, attributes: Mapping[str, object]) -> list[dict[str, object]]:
    return [
        {"trial_id": place.trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()
    ]


def rename_study(connection: Connection, old: str, new: str) -> int:
    """Give a study another name; return how many were renamed.

    Optuna has no such call, so this has no other way than the table.
    """
    return int(connection.execute(text(RENAME), {"old": old, "new": new}).rowcount)
