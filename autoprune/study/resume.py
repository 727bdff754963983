"""What a killed process left behind, and how the next one goes on: lost candidates are evaluated again.

A candidate is lost if it was asked for, has no outcome, and nobody runs it. It comes back under its own number, with
its own policy and what Optuna's sampler noted on it, so that a resumed study proposes what an undisturbed one would.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from autoprune.core.trial import Candidate
from autoprune.study import trial_format
from autoprune.study.trial_format import OUTCOME, Record, RecordCache, StoredTrial, read_candidate


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


def lost_candidates(stored: Sequence[Record], cache: RecordCache | None = None) -> list[Candidate]:
    """Return the candidates that were asked, never finished and are not running, by number."""
    read = cache.candidate if cache else read_candidate
    lost: dict[int, Candidate] = {}
    alive: set[int] = set()
    for record in stored:
        candidate = read(record)
        if candidate is None:
            continue
        if record.state.is_finished() and OUTCOME not in record.user_attrs:
            lost[candidate.number] = candidate
        else:
            alive.add(candidate.number)
    return [lost[number] for number in sorted(set(lost) - alive)]


def noted_by_sampler(
    storage: BaseStorage, study_id: int, candidate: Candidate, stored: Sequence[StoredTrial], cache: RecordCache
) -> dict[str, object]:
    """Return what Optuna's sampler noted on a lost candidate's records, as NSGA-II its generation."""
    found: dict[str, object] = {}
    for record in stored:
        known = cache.candidate(record)
        if known is not None and known.number == candidate.number:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, record.number)
            found |= storage.get_trial_system_attrs(trial_id)
    return found
