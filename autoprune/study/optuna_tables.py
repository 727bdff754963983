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
from collections.abc import Mapping

from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.orm import Session

from autoprune.core.json_values import parse_json
from autoprune.study.table_schema import CANDIDATE, KNOWN_SCHEMA, OUTCOME
from autoprune.study.trial_format import NewTrial, StoredTrial, TrialEnd, TrialPlace

# an attribute's value is JSON, and ours is JSON within it
_QUERY = text(
    """
    SELECT trials.number, trials.state, attributes.key, attributes.value_json
    FROM trials
    LEFT JOIN trial_user_attributes AS attributes
        ON attributes.trial_id = trials.trial_id AND attributes.key IN (:candidate, :outcome)
    WHERE trials.study_id = :study AND trials.number >= :first
    ORDER BY trials.number
    """
)
RENAME = "UPDATE studies SET study_name = :new WHERE study_name = :old"


def knows_tables(storage: RDBStorage) -> bool:
    """Return whether a storage has the tables that this file knows, and Optuna the models of them."""
    try:
        import optuna.storages._rdb.models  # noqa: F401
    except ImportError:
        return False
    return storage.get_current_version() in KNOWN_SCHEMA


def read_rows(storage: RDBStorage, study_id: int, first: int) -> list[StoredTrial]:
    """Return every trial of a study as it is at one moment, by number; running ones and lost ones too.

    Args:
        storage: holds the study.
        study_id: of the study in that storage.
        first: Optuna's number of the first trial that is read.

    Raises:
        SQLAlchemyError: if the database cannot be read.
    """
    asked = {"study": study_id, "candidate": CANDIDATE, "outcome": OUTCOME, "first": first}
    with storage.engine.connect() as connection:
        rows = connection.execute(_QUERY, asked).all()
    found: dict[int, StoredTrial] = {}
    for number, state, key, value in rows:
        trial = found.setdefault(number, StoredTrial(number, TrialState[state], {}))
        if key is not None:
            found[number] = StoredTrial(number, trial.state, {**trial.user_attrs, key: parse_json(value)})
    return list(found.values())


def silent_numbers(storage: RDBStorage, study_id: int, seconds: float) -> set[int]:
    """Return the numbers of the running trials whose last heartbeat is so many seconds old, by the database's clock.

    Raises:
        SQLAlchemyError: if the database cannot be read.
    """
    from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel

    asked = (
        select(TrialModel.number, TrialHeartbeatModel.heartbeat, func.now())
        .outerjoin(TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id)
        .where(TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING)
    )
    with storage.engine.connect() as connection:
        rows = connection.execute(asked).all()
    grace = datetime.timedelta(seconds=seconds)
    return {int(number) for number, beat, now in rows if beat is None or _plain(now) - _plain(beat) > grace}


def _plain(moment: datetime.datetime) -> datetime.datetime:
    """Return a moment of the database without its zone, which some drivers give for one column and not for another."""
    return moment.replace(tzinfo=None)


def insert_running(storage: RDBStorage, study_id: int, new: NewTrial) -> TrialPlace:
    """Store a running trial in one transaction; return where.

    Args:
        storage: holds the study.
        study_id: of the study in that storage.
        new: what is stored.

    Raises:
        ValueError: if a parameter lies outside its distribution.
        SQLAlchemyError: if the database cannot be written; then nothing is stored.
    """
    from optuna.storages._rdb.models import StudyModel, TrialModel, TrialSystemAttributeModel

    values = new.internal_values()
    with Session(storage.engine) as session, session.begin():
        session.execute(select(StudyModel.study_id).where(StudyModel.study_id == study_id).with_for_update())
        stored = select(func.count()).select_from(TrialModel).where(TrialModel.study_id == study_id)
        number = int(session.scalar(stored) or 0)
        trial = TrialModel(study_id=study_id, number=number, state=TrialState.RUNNING)
        trial.datetime_start = datetime.datetime.now()  # local; the model turns it into UTC
        session.add(trial)
        session.flush()
        place = TrialPlace(int(trial.trial_id), number)
        _insert_details(session, place, new, values)
        if new.system_attrs:
            session.execute(insert(TrialSystemAttributeModel), _attribute_rows(place, new.system_attrs))
    return place


def insert_details(storage: RDBStorage, place: TrialPlace, new: NewTrial) -> None:
    """Store the parameters and attributes of a trial that runs without any, in one transaction.

    Raises:
        ValueError: if a parameter lies outside its distribution.
        SQLAlchemyError: if the database cannot be written; then nothing is stored.
    """
    values = new.internal_values()
    with Session(storage.engine) as session, session.begin():
        _insert_details(session, place, new, values)


def end_running(storage: RDBStorage, place: TrialPlace, end: TrialEnd) -> TrialState:
    """End a running trial in one transaction; one that has ended already is left as it is.

    Args:
        storage: holds the study.
        place: of the trial.
        end: what is stored.

    Returns:
        the state that it was in.

    Raises:
        KeyError: if there is no such trial.
        SQLAlchemyError: if the database cannot be written; then nothing is stored.
    """
    from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel, TrialValueModel

    with Session(storage.engine) as session, session.begin():
        trial = session.scalar(select(TrialModel).where(TrialModel.trial_id == place.trial_id).with_for_update())
        if trial is None:
            raise KeyError(f"no trial {place.trial_id}")
        state = TrialState(trial.state)
        if state == TrialState.RUNNING:
            values = [TrialValueModel.value_to_stored_repr(value) for value in end.values or ()]
            rows: list[dict[str, object]] = [
                {"trial_id": place.trial_id, "objective": objective, "value": value, "value_type": kind}
                for objective, (value, kind) in enumerate(values)
            ]
            attributes = _attribute_rows(place, end.user_attrs)
            for table, found in ((TrialUserAttributeModel, attributes), (TrialValueModel, rows)):
                if found:
                    session.execute(insert(table), found)
            trial.state, trial.datetime_complete = end.state, datetime.datetime.now()  # local, as above
    return state


def _insert_details(session: Session, place: TrialPlace, new: NewTrial, values: Mapping[str, float]) -> None:
    from optuna.storages._rdb.models import TrialParamModel, TrialUserAttributeModel

    rows = [
        {
            "trial_id": place.trial_id,
            "param_name": name,
            "param_value": values[name],
            "distribution_json": distribution_to_json(distribution),
        }
        for name, distribution in new.distributions.items()
    ]
    for table, found in ((TrialParamModel, rows), (TrialUserAttributeModel, _attribute_rows(place, new.user_attrs))):
        if found:
            session.execute(insert(table), found)


def _attribute_rows(place: TrialPlace, attributes: Mapping[str, object]) -> list[dict[str, object]]:
    return [
        {"trial_id": place.trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()
    ]


def rename_study(connection: Connection, old: str, new: str) -> int:
    """Give a study another name; return how many were renamed.

    Optuna has no such call, so this has no other way than the table.
    """
    return int(connection.execute(text(RENAME), {"old": old, "new": new}).rowcount)
