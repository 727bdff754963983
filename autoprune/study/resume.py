"""What a killed process left behind, and how the next one goes on: lost candidates are evaluated again.

A candidate is lost if it was asked for, has no outcome, and nobody runs it. It comes back under its own number, with
its own policy and what Optuna's sampler noted on it, so that a resumed study proposes what an undisturbed one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from autoprune.study import trial_format
from autoprune.study.trial_format import OUTCOME, StoredTrial


def end_running(study: optuna.Study, left: Sequence[StoredTrial], objectives: Sequence[str]) -> None:
    """End running trials whose workers have lost them.

    One whose outcome is stored already is finished, and not evaluated again; any other is lost.

    Args:
        study: of Optuna's, which nobody else writes meanwhile.
        left: the trials.
        objectives: metric names, in order.
    """
    for record in left:
        if OUTCOME in record.user_attrs:
            state, values = trial_format.told_as(trial_format.outcome_of(record), objectives)
            study.tell(record.number, values, state=state)
        else:
            study.tell(record.number, state=TrialState.FAIL)


def noted_by_sampler(storage: BaseStorage, study_id: int, numbers: Iterable[int]) -> dict[str, object]:
    """Return what Optuna's sampler noted on a lost candidate's records, as NSGA-II its generation.

    Args:
        storage: holds the study.
        study_id: of the study in that storage.
        numbers: Optuna's numbers of the records, the latest last.
    """
    found: dict[str, object] = {}
    for number in numbers:
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        found |= storage.get_trial_system_attrs(trial_id)
    return found
