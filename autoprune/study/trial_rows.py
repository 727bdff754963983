"""The stored trials of one study, as autoprune reads and writes them: a state and two attributes each.

What has ended never changes, so each time only the rest is read. :func:`open_rows` goes through Optuna's tables
directly where they are known (``optuna_tables``) and through Optuna's public API otherwise.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Protocol

from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from autoprune.study import optuna_tables
from autoprune.study.trial_format import NewTrial, StoredTrial, TrialEnd, TrialPlace


class TrialRows(Protocol):
    """The trials of one study in a storage."""

    def read(self, first: int) -> list[StoredTrial]:
        """Return every trial from Optuna's number ``first`` on, as it is at one moment; running and lost ones too."""
        ...  # pragma: no cover

    def silent(self, seconds: float) -> set[int]:
        """Return Optuna's numbers of the running trials whose last heartbeat is so old, by the database's clock."""
        ...  # pragma: no cover

    def add(self, new: NewTrial) -> TrialPlace:
        """Store a running trial; return where.

        Raises:
            ValueError: if a parameter lies outside its distribution.
        """
        ...  # pragma: no cover

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store the parameters and attributes of a trial that runs without any; raises as :meth:`add`."""
        ...  # pragma: no cover

    def end(self, place: TrialPlace, end: TrialEnd) -> TrialState:
        """End a running trial, and leave one that has ended already as it is; return the state that it was in.

        Raises:
            KeyError: if there is no such trial.
        """
        ...  # pragma: no cover


class TableRows:
    """Trials through Optuna's tables: one statement where the API takes hundreds."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id

    def read(self, first: int) -> list[StoredTrial]:
        """Return every trial from a number on; raises SQLAlchemyError if the database cannot be read."""
        return optuna_tables.read_rows(self._storage, self._study_id, first)

    def silent(self, seconds: float) -> set[int]:
        """Return the running trials without a heartbeat for so long; raises as :meth:`read`."""
        return optuna_tables.silent_numbers(self._storage, self._study_id, seconds)

    def add(self, new: NewTrial) -> TrialPlace:
        """Store a running trial in one transaction; return where."""
        return optuna_tables.insert_running(self._storage, self._study_id, new)

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store the rest of a trial in one transaction."""
        optuna_tables.insert_details(self._storage, place, new)

    def end(self, place: TrialPlace, end: TrialEnd) -> TrialState:
        """End a trial in one transaction; return the state that it was in."""
        return optuna_tables.end_running(self._storage, place, end)


class ApiRows:
    """Trials through Optuna's public API, whatever its tables look like."""

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id

    def read(self, first: int) -> list[StoredTrial]:
        """Return every trial from a number on."""
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return [StoredTrial(trial.number, trial.state, trial.user_attrs) for trial in trials if trial.number >= first]

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
        return TrialPlace(trial_id, self._storage.get_trial_number_from_id(trial_id))

    def complete(self, place: TrialPlace, new: NewTrial) -> None:
        """Store the rest of a trial one by one; the attributes, which make it ours, come last."""
        for name, value in new.internal_values().items():
            self._storage.set_trial_param(place.trial_id, name, value, new.distributions[name])
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


class Follower:
    """A study that is read again and again; what has ended is remembered.

    Args:
        rows: the study's trials.
    """

    def __init__(self, rows: TrialRows) -> None:
        self._rows = rows
        self._ended: list[StoredTrial] = []  # numbers 0 … len - 1

    def trials(self) -> list[StoredTrial]:
        """Return every trial as it is at one moment, by Optuna's number.

        Raises:
            SQLAlchemyError: if the database cannot be read.
        """
        known = list(self._ended)
        rest = self._rows.read(len(known))
        self._ended.extend(takewhile(lambda trial: trial.state.is_finished(), rest))
        return known + rest
