"""A stored study as plain data, and back into a storage: what an archive carries, whatever the database.

A trial is one JSON object with what Optuna stores of it. One that is running is carried as one that its process lost,
so that whoever goes on with the study asks it again; if its outcome was stored already, it is finished instead.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.errors import StudyError
from autoprune.study import trial_format
from autoprune.study.storage import closing_storage, reporting_damage
from autoprune.study.storage_url import without_password
from autoprune.study.whole_trials import WholeTrial, whole_trials


@dataclass(frozen=True)
class PortableStudy:
    """A stored study, as JSON can hold it.

    Attributes:
        facts: what is stored about it as a whole: ``fingerprint``, ``dense``, ``session:0`` …
        trials: one object per record, in the order they were asked, those that were lost included.
    """

    facts: Mapping[str, Any]
    trials: tuple[Mapping[str, Any], ...]


@contextmanager
def reading_portable(
    url: str, name: str, objectives: tuple[str, ...]
) -> Iterator[tuple[Mapping[str, Any], Iterator[JsonObject]]]:
    """Give what is stored of a study as a whole, and its trials one after the other; safe beside a running search.

    Args:
        url: Optuna storage URL.
        name: the study's name in it.
        objectives: metric names, in order.

    Raises:
        StudyError: if the storage cannot be read or holds no such study.
    """
    with closing_storage(url, to_read=True) as storage:
        try:
            study_id = storage.get_study_id_from_name(name)
        except KeyError as error:
            raise StudyError(f"the storage {without_password(url)!r} holds no study named {name!r}") from error
        with reporting_damage(url):
            stored = storage.get_study_user_attrs(study_id)
            facts = {key: parse_json(value) for key, value in sorted(stored.items())}
            yield facts, (_packed(trial, objectives) for trial in whole_trials(storage, study_id))


def write_portable(study: PortableStudy, url: str, name: str, objectives: tuple[str, ...]) -> None:
    """Write a study into a storage that holds none of this name.

    Raises:
        StudyError: if the storage cannot be written, or the data is not what :func:`reading_portable` gives.
    """
    with closing_storage(url) as storage:
        target = _create(storage, url, name, objectives)
        for key, value in study.facts.items():
            target.set_user_attr(key, json.dumps(value))
        for number, packed in enumerate(study.trials):
            target.add_trial(_unpacked(packed, number, objectives))


def _create(storage: RDBStorage, url: str, name: str, objectives: tuple[str, ...]) -> optuna.Study:
    try:
        return optuna.create_study(
            storage=storage, study_name=name, directions=trial_format.directions(objectives), load_if_exists=False
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise StudyError(f"the storage {without_password(url)!r} holds a study named {name!r} already") from error


def _packed(record: WholeTrial, objectives: tuple[str, ...]) -> JsonObject:
    state, values = record.state, record.values
    if not state.is_finished() and trial_format.OUTCOME in record.user_attrs:
        state, values = trial_format.told_as(trial_format.outcome_of(record), objectives)
    elif not state.is_finished():
        state, values = TrialState.FAIL, None
    return {
        "state": state.name,
        "values": values,
        "start": _when(record.start),
        "complete": _when(record.complete or record.start),
        "params": dict(record.params),
        "distributions": dict(record.distributions),
        "user_attrs": {key: parse_json(value) for key, value in record.user_attrs.items()},
        "system_attrs": dict(record.system_attrs),
    }


def _unpacked(packed: Mapping[str, Any], number: int, objectives: Sequence[str]) -> FrozenTrial:
    """Return Optuna's record of a trial.

    Raises:
        StudyError: if the object does not describe one.
    """
    try:
        record = FrozenTrial(
            number=number,
            trial_id=-1,  # the storage gives its own
            state=TrialState[packed["state"]],
            value=None,
            values=packed["values"],
            datetime_start=_moment(packed["start"]),
            datetime_complete=_moment(packed["complete"]),
            params=dict(packed["params"]),
            distributions={k: json_to_distribution(json.dumps(d)) for k, d in packed["distributions"].items()},
            user_attrs={key: json.dumps(value) for key, value in packed["user_attrs"].items()},
            system_attrs=dict(packed["system_attrs"]),
            intermediate_values={},
        )
        record._validate()
        if record.values is not None and len(record.values) != len(objectives):
            raise ValueError(f"it has {len(record.values)} values, and the spec {len(objectives)} objectives")
        trial_format.read_trial(record)
    except DAMAGE as error:
        raise StudyError(
            f"trial {number} of the archive is damaged: {type(error).__name__}: {error}; export the study again"
        ) from error
    return record


def check_portable(trials: Iterable[Mapping[str, Any]], objectives: Sequence[str]) -> None:
    """Check that every object describes a trial with a value for each objective, if it has any.

    Raises:
        StudyError: naming the first that does not, or whose parameters come from elsewhere than an earlier one's.
    """
    spaces: dict[str, BaseDistribution] = {}
    for number, packed in enumerate(trials):
        for name, space in _unpacked(packed, number, objectives).distributions.items():
            try:
                check_distribution_compatibility(spaces.setdefault(name, space), space)
            except ValueError as error:  # which Optuna's storage would raise
                raise StudyError(
                    f"trial {number} of the archive is damaged: {name!r} is from another space than before: {error}; "
                    "export the study again"
                ) from error


def _when(moment: datetime.datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _moment(text: str | None) -> datetime.datetime | None:
    return datetime.datetime.fromisoformat(text) if text else None
