"""The ledger: ask and tell. What a killed process left behind is picked up by ``resume``.

A study survives a kill at any instant because everything is derived from what is stored: the next number
to ask, the candidates a dead process left unfinished, the baselines still owed to a budget. There is no
queue to lose. One process asks at a time, held by an operating-system lock that a dead process cannot keep.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import optuna
from optuna.samplers import RandomSampler

from autoprune.core.budget import Budget
from autoprune.core.json_values import parse_json
from autoprune.core.policy import PruningPolicy
from autoprune.core.proposal import Proposal
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Outcome, Trial
from autoprune.errors import StudyError
from autoprune.study import trial_format
from autoprune.study.lock import take_lock
from autoprune.study.optuna_sampler import OptunaDraw, distributions, proposal_seed
from autoprune.study.policy_params import Params, params_of
from autoprune.study.resume import end_running, lost_candidates, noted_by_sampler
from autoprune.study.same_place import SamePlace
from autoprune.study.storage import open_storage, reporting_damage, reporting_faults, tried_again
from autoprune.study.trial_rows import Follower, open_rows

T = TypeVar("T")


class Proposer(Protocol):
    """What decides which policy is tried next."""

    @property
    def space(self) -> SearchSpace:
        """Return the space that every proposal is from."""
        ...  # pragma: no cover

    @property
    def budget(self) -> Budget:
        """Return the absolute limits that candidates are made for."""
        ...  # pragma: no cover

    def propose(self, number: int, trials: Sequence[Trial], draw: Callable[[str, int], Params]) -> Proposal:
        """Return the proposal that becomes candidate ``number``.

        Args:
            number: of the candidate.
            trials: every finished trial, by number.
            draw: (name, seed) → a value for every parameter, by one of Optuna's samplers; called at most once.
        """
        ...  # pragma: no cover


class Ledger:
    """A stored study, open for writing.

    Args:
        url: Optuna storage URL.
        name: the study's name in that storage.
        objectives: metric names, in order.
        lock: file that is locked while the ledger is open.

    Raises:
        StudyLockedError: if another process has the study open for writing.
        StudyError: if the storage cannot be opened.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[str], lock: Path) -> None:
        self.objectives = tuple(objectives)
        self._url = url
        self._cache = trial_format.RecordCache()
        self._lock = take_lock(lock)
        try:
            storage = open_storage(url)
            with reporting_faults(url):
                self._study = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    directions=trial_format.directions(objectives),
                    load_if_exists=True,
                )
                self._storage, self._study_id = storage, storage.get_study_id_from_name(name)
                self._rows = open_rows(storage, self._study_id)
                self._follower = Follower(self._rows)
                self._asked: dict[int, trial_format.TrialPlace] = {}  # by the candidate's number
                self._session = 0
                self._place = SamePlace(lock, url, storage, self._study_id, name)
                self.reclaimed = end_running(self._study, self._follower.trials(), self.objectives)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the study; what was asked and not told will be asked again."""
        self._lock.release()

    @property
    def trials(self) -> list[Trial]:
        """Return every finished trial, by number."""
        with reporting_damage(self._url):
            return self._tried(lambda _: trial_format.read_trials(self._follower.trials(), self._cache))

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is stored about the study as a whole."""
        with reporting_damage(self._url):
            return self._tried(lambda _: {key: parse_json(value) for key, value in self._study.user_attrs.items()})

    def remember(self, key: str, value: Any) -> None:
        """Store a fact about the study as a whole, as JSON.

        Raises:
            StudyError: if it cannot be stored.
        """
        self._tried(lambda _: self._study.set_user_attr(key, json.dumps(value)))

    def check_place(self) -> None:
        """Raise if the study was deleted, moved or replaced since it was opened.

        Raises:
            StudyError: naming what is gone or another one.
        """
        self._tried(lambda _: self._place.check())

    def begin_session(self, facts: Mapping[str, object]) -> int:
        """Store that a run begins, with whatever describes it; return its number, from 0."""
        sessions = [key for key in self.facts if key.startswith("session:")]
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._session = len(sessions)
        self.remember(f"session:{self._session}", {"started": started, **facts})
        return self._session

    def ask(self, proposer: Proposer, seed: int) -> Candidate:
        """Return the next candidate, stored as running.

        A candidate that a dead process left unfinished comes first, under its own number, with its own policy.

        Args:
            proposer: what to ask otherwise.
            seed: the study's seed; a candidate's own seed follows from it and its number.

        Raises:
            StudyError: if it cannot be stored, or the study was deleted, moved or replaced.
        """
        return self._tried(lambda _: self._ask_next(proposer, seed))

    def _tried(self, act: Callable[[bool], T]) -> T:
        return tried_again(self._storage, self._url, act)

    def _ask_next(self, proposer: Proposer, seed: int) -> Candidate:
        self._place.check()
        stored, space = self._follower.trials(), proposer.space
        self._study.sampler = RandomSampler()  # its trials may end without any sampler's seeing it
        lost = lost_candidates(stored, self._cache)
        if lost:
            noted = noted_by_sampler(self._storage, self._study_id, lost[0], stored, self._cache)
            new = self._new_trial(space, lost[0], space.canonical(lost[0].policy), noted)
            return self._asked_at(self._rows.add(new), lost[0])
        number = 1 + max((c.number for r in stored if (c := self._cache.candidate(r)) is not None), default=-1)
        draw = OptunaDraw(self._study, self._storage, self._study_id, distributions(space))
        found = proposer.propose(number, trial_format.read_trials(stored, self._cache), draw)
        candidate = Candidate(number, found.policy, proposal_seed(seed, number), found.origin, found.budget)
        new = self._new_trial(space, candidate, found.policy, {})
        if draw.place is None:
            return self._asked_at(self._rows.add(new), candidate)
        self._rows.complete(draw.place, new)
        return self._asked_at(draw.place, candidate)

    def _new_trial(
        self, space: SearchSpace, candidate: Candidate, canonical: PruningPolicy, noted: Mapping[str, object]
    ) -> trial_format.NewTrial:
        attributes = {trial_format.CANDIDATE: trial_format.candidate_record(candidate, self._session)}
        return trial_format.NewTrial(params_of(space, canonical), distributions(space), attributes, noted)

    def _asked_at(self, place: trial_format.TrialPlace, candidate: Candidate) -> Candidate:
        self._asked[candidate.number] = place
        return candidate

    def tell(self, candidate: Candidate, outcome: Outcome, seconds: Mapping[str, float]) -> Trial:
        """Store how a candidate ended.

        Raises:
            StudyError: if it was not asked by this ledger, cannot be stored, or the study was deleted, moved or
                replaced.
        """
        place = self._asked.pop(candidate.number, None)
        if place is None:
            raise StudyError(f"candidate {candidate.number} was not asked in this run; ask before you tell")
        state, values = trial_format.told_as(outcome, self.objectives)
        told = trial_format.outcome_record(outcome, seconds)

        def write(is_second: bool) -> None:
            self._place.check()
            if is_second and self._storage.get_trial(place.trial_id).state == state:
                return  # the connection was lost after the last write
            self._storage.set_trial_user_attr(place.trial_id, trial_format.OUTCOME, told)
            self._study.tell(place.number, values, state=state)

        self._tried(write)
        return Trial(candidate, outcome, seconds, self._session)
