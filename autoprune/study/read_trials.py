"""Read the trials of a stored study without their parameters: two columns instead of sixty rows for each trial.

Optuna builds a trial from one row for every parameter, value and attribute, which takes ten seconds for 5,000 trials
of a ResNet-56. What autoprune reads stands in two attributes, ``study.records``, and is asked for alone;
``tests/study/test_reading.py`` holds that both ways see the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import text

from autoprune.study.records import CANDIDATE, OUTCOME

# Optuna's own schema since version 3; an attribute's value is JSON, and ours is JSON within it
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


@dataclass(frozen=True)
class StoredTrial:
    """Hold what autoprune reads of a stored trial: Optuna's number and state, and our attributes."""

    number: int
    state: TrialState
    user_attrs: Mapping[str, Any]


def stored_trials(storage: RDBStorage, study_id: int, first: int = 0) -> list[StoredTrial]:
    """Return every trial of a study as it is at one moment, by number; running ones and lost ones too.

    Args:
        storage: that holds the study.
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
            found[number] = StoredTrial(number, trial.state, {**trial.user_attrs, key: json.loads(value)})
    return list(found.values())


class Follower:
    """Read a study again and again: what has ended never changes, so each time only the rest is read.

    Args:
        storage: that holds the study.
        study_id: of the study in that storage.
    """

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._storage, self._study_id = storage, study_id
        self._ended: list[StoredTrial] = []  # numbers 0 … len - 1

    def trials(self) -> list[StoredTrial]:
        """Return what :func:`stored_trials` does.

        Raises:
            SQLAlchemyError: if the database cannot be read.
        """
        known = list(self._ended)
        rest = stored_trials(self._storage, self._study_id, len(known))
        self._ended.extend(takewhile(lambda trial: trial.state.is_finished(), rest))
        return known + rest
