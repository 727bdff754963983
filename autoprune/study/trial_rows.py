"""The stored trials of one study, as autoprune reads and writes them: a state and two attributes each.

:func:`open_rows` goes through Optuna's tables directly where they are known (``optuna_tables``) and through Optuna's
public API otherwise. What has ended never changes, so ``known_trials`` reads only the rest each time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from autoprune.study import optuna_tables
from autoprune.study.trial_format import NewTrial, StoredTrial, TrialEnd, TrialPlace

if TYPE_CHECKING:
    from sqlalchemy import Connection


class TrialRows(Protocol):
    """The trials of one study in a storage."""

    def within(self, connection: Connection) -> TrialRows:
        """Return the same, read and written on one connection where that can be, for its owner to commit."""
        ...  # pragma: no cover

    def study_named(self, name: str) -> int | None:
        """Return the id of a study in the storage; ``None`` if there is none of that name."""
        ...  # pragma: no cover

    def read(self, after: int = -1, bare: Collection[int] = (), running: Collection[int] = ()) -> list[StoredTrial]:
        """Return trials as they are at one moment, by Optuna's number; running and lost ones too.

        Args:
            after: number of a trial; every later one is read.
            bare: numbers of trials that are read as well.
            running: numbers of trials that are read if they run no longer.
        """
        ...  # pragma: no cover

    def silent(self, seconds: float) -> set[int]:
        """Return Optuna's numbers of the running trials whose last heartbeat is so old, by the database's clock."""
        ...  # pragma: no cover

    def add(self, new: NewTrial) -> TrialPlace:
        """Store a running trial with its first heartbeat; return where.

        Raises:
            ValueError: if a parameter lies outside its distribution.
        """
        ...  # pragma: no cover

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store what :meth:`add` does of a trial that runs without any of it; raises as that."""
        ...  # pragma: no cover

    def end(self, place: TrialPlace, end: TrialEnd) -> TrialState:
        """End a running trial, and leave one that has ended already as it is; return the state that it was in.

        Raises:
            KeyError: if there is no such trial.
        """
        ...  # pragma: no cover


class TableRows:
    """Trials through Optuna's tables: one statement where the API takes hundreds.

    Args:
        storage: holds the study.
        study_id: of the study in that storage.
        connection: on which everything is read and written, for its owner to commit; ``None`` for one of its own, and a
            transaction, each time.
    """

    def __init__(self, storage: RDBStorage, study_id: int, connection: Connection | None = None) -> None:
        self._storage, self._study_id, self._connection = storage, study_id, connection

    def within(self, connection: Connection) -> TableRows:
        """Return the same on one connection."""
        return TableRows(self._storage, self._study_id, connection)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        if self._connection is not None:
            yield self._connection
            return
        with self._storage.engine.begin() as connection:
            yield connection

    def study_named(self, name: str) -> int | None:
        """Return the id of a study; raises as :meth:`read`."""
        with self._connected() as connection:
            return optuna_tables.study_named(connection, name)

    def read(self, after: int = -1, bare: Collection[int] = (), running: Collection[int] = ()) -> list[StoredTrial]:
        """Return trials beyond a number and some before it; raises SQLAlchemyError if the database cannot be read."""
        with self._connected() as connection:
            return optuna_tables.read_rows(connection, self._study_id, after, bare, running)

    def silent(self, seconds: float) -> set[int]:
        """Return the running trials without a heartbeat for so long; raises as :meth:`read`."""
        with self._connected() as connection:
            return optuna_tables.silent_numbers(connection, self._study_id, seconds)

    def add(self, new: NewTrial) -> TrialPlace:
        """Store a running trial in one transaction; return where."""
        with self._connected() as connection:
            return optuna_tables.insert_running(connection, self._study_id, new)

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store the rest of a trial in one transaction."""
        with self._connected() as connection:
            optuna_tables.insert_details(connection, place, new)

    def end(self, place: TrialPlace, end: TrialEnd) -> TrialState:
        """End a trial in one transaction; return the state that it was in."""
        with self._connected() as connection:
            return optuna_tables.end_running(connection, place, end)


class ApiRows:
    """Trials through Optuna's public API, whatever its tables look like."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id

    def within(self, connection: Connection) -> ApiRows:
        """Return this: Optuna's API takes connections of its own, and commits each write."""
        return self

    def study_named(self, name: str) -> int | None:
        """Return the id of a study."""
        try:
            return int(self._storage.get_study_id_from_name(name))
        except KeyError:
            return None

    def read(self, after: int = -1, bare: Collection[int] = (), running: Collection[int] = ()) -> list[StoredTrial]:
        """Return trials beyond a number and some before it."""
        return [
            StoredTrial(trial.number, trial.state, trial.user_attrs)
            for trial in self._storage.get_all_trials(self._study_id, deepcopy=False)
            if trial.number > after
            or trial.number in bare
            or (trial.number in running and trial.state != TrialState.RUNNING)
        ]

    def silent(self, seconds: float) -> set[int]:
        """Return the running trials without a heartbeat for so long, as Optuna itself tells them."""
        self._storage.heartbeat_interval, self._storage.grace_period = max(1, int(seconds)), max(1, int(seconds))
        stale = self._storage._get_stale_trial_ids(self._study_id)
        return {self._storage.get_trial_number_from_id(trial_id) for trial_id in stale}

    def add(self, new: NewTrial) -> TrialPlace:
        """Store a running trial from a template; return where."""
        new.internal_values()
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(new.params),
            distributions=dict(new.distributions),
            user_attrs=dict(new.user_attrs),
            system_attrs=dict(new.system_attrs),
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        self._storage.record_heartbeat(trial_id)
        return TrialPlace(trial_id, self._storage.get_trial_number_from_id(trial_id))

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store the rest of a trial one by one; the attributes, which make it ours, come last."""
        for name, value in new.internal_values().items():
            self._storage.set_trial_param(place.trial_id, name, value, new.distributions[name])
        self._storage.record_heartbeat(place.trial_id)
        for key, value in new.user_attrs.items():
            self._storage.set_trial_user_attr(place.trial_id, key, value)

    def end(self, place: TrialPlace, end: TrialEnd) -> TrialState:
        """End a trial; its state comes last, so that an attribute without it says how it would have ended."""
        state = self._storage.get_trial(place.trial_id).state
        if not state.is_finished():
            for key, value in end.user_attrs.items():
                self._storage.set_trial_user_attr(place.trial_id, key, value)
            self._storage.set_trial_state_values(place.trial_id, end.state, end.values)
        return state


def open_rows(storage: RDBStorage, study_id: int) -> TrialRows:
    """Return the trials of a study: through Optuna's tables if they are known, else through its API."""
    if optuna_tables.knows_tables(storage):
        return TableRows(storage, study_id)
    return ApiRows(storage, study_id)
