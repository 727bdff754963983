"""Every record of a study as plain data, one after the other: thousands of trials take no more memory than a few.

Optuna's API builds each trial from a dozen objects and holds all of them at once; here its tables are read in portions,
as they are at one moment. Where a release of Optuna brings other tables, its API is taken.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Connection, select

from autoprune.study.optuna_tables import knows_tables

PORTION = 250  # trials that are in memory at a time


@dataclass(frozen=True)
class WholeTrial:
    """All that Optuna stores of a trial, but for values reported on the way, of which autoprune stores none.

    Attributes:
        number: Optuna's.
        state: whether it runs, or how it ended.
        values: of the objectives; ``None`` if it has none.
        start: when it began, in local time.
        complete: when it ended, in local time; ``None`` if it has not.
        params: a value for every parameter.
        distributions: of every parameter, as JSON data; shared between trials.
        user_attrs: as stored.
        system_attrs: as stored.
    """

    number: int
    state: TrialState
    values: list[float] | None
    start: datetime.datetime | None
    complete: datetime.datetime | None
    params: Mapping[str, Any]
    distributions: Mapping[str, Any]
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any]


def whole_trials(storage: RDBStorage, study_id: int) -> Iterator[WholeTrial]:
    """Yield every trial of a study as it is at one moment, by number.

    Args:
        storage: holds the study.
        study_id: of the study in that storage.

    Raises:
        SQLAlchemyError: if the database cannot be read.
    """
    if not knows_tables(storage):
        yield from _by_api(storage, study_id)
        return
    known = _Distributions()
    with _one_moment(storage) as connection:
        first = 0
        while portion := _portion(connection, study_id, first, known):
            yield from portion
            first = portion[-1].number + 1


@contextmanager
def _one_moment(storage: RDBStorage) -> Iterator[Connection]:
    """Give a connection whose every query sees the same state, beside a search that writes."""
    with storage.engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection
        connection.rollback()


class _Distributions:
    """What the text of a distribution says, parsed once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[BaseDistribution, Any]] = {}

    def __getitem__(self, text: str) -> tuple[BaseDistribution, Any]:
        if text not in self._known:
            found = json_to_distribution(text)
            self._known[text] = found, json.loads(distribution_to_json(found))
        return self._known[text]


def _portion(connection: Connection, study_id: int, first: int, known: _Distributions) -> list[WholeTrial]:
    from optuna.storages._rdb import models

    trials = models.TrialModel.__table__
    asked = select(trials).where(trials.c.study_id == study_id, trials.c.number >= first)
    heads = connection.execute(asked.order_by(trials.c.number).limit(PORTION)).all()
    ids = [head.trial_id for head in heads]
    rows = {
        table: _rows(connection, table.__table__, ids)
        for table in (
            *(models.TrialValueModel, models.TrialParamModel),
            *(models.TrialUserAttributeModel, models.TrialSystemAttributeModel),
        )
    }

    def trial_of(head: Any) -> WholeTrial:
        values, params, user, system = (found.get(head.trial_id, []) for found in rows.values())
        parsed = {row.param_name: (row.param_value, *known[row.distribution_json]) for row in params}
        to_value = models.TrialValueModel.stored_repr_to_value
        return WholeTrial(
            head.number,
            head.state,
            [to_value(row.value, row.value_type) for row in sorted(values, key=lambda row: row.objective)] or None,
            _local(head.datetime_start),
            _local(head.datetime_complete),
            {name: space.to_external_repr(value) for name, (value, space, _) in parsed.items()},
            {name: data for name, (_, _, data) in parsed.items()},
            {row.key: json.loads(row.value_json) for row in user},
            {row.key: json.loads(row.value_json) for row in system},
        )

    return [trial_of(head) for head in heads]


def _rows(connection: Connection, table: Any, ids: list[int]) -> dict[int, list[Any]]:
    """Return the rows of some trials by trial, each in the order they were written."""
    found: dict[int, list[Any]] = {}
    asked = select(table).where(table.c.trial_id.in_(ids)).order_by(next(iter(table.primary_key)))
    for row in connection.execute(asked):
        found.setdefault(row.trial_id, []).append(row)
    return found


def _local(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Return a stored moment, which is in UTC, as Optuna gives it."""
    return None if moment is None else moment.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


def _by_api(storage: RDBStorage, study_id: int) -> Iterator[WholeTrial]:
    for trial in storage.get_all_trials(study_id, deepcopy=False):
        yield WholeTrial(
            trial.number,
            trial.state,
            trial.values,
            trial.datetime_start,
            trial.datetime_complete,
            trial.params,
            {name: json.loads(distribution_to_json(space)) for name, space in trial.distributions.items()},
            trial.user_attrs,
            trial.system_attrs,
        )
