"""The ledger: ask and tell. What a killed process left behind is picked up by ``resume``.

A study survives a kill at any instant because everything is derived from what is stored: the next number
to ask, the candidates that a dead worker left unfinished, the baselines still owed to a budget. There is no
queue to lose. Any number of workers share a study: each asks and tells alone, for milliseconds (``asking``), and
evaluates outside of that under a lease (``leases``).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from autoprune.core.budget import Budget
from autoprune.core.json_values import parse_json
from autoprune.core.policy import PruningPolicy
from autoprune.core.proposal import Proposal
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, HostLatency, Outcome, Trial
from autoprune.errors import LeaseLostError, StudyError
from autoprune.study import trial_format
from autoprune.study.lapsed_leases import GRACE_SECONDS
from autoprune.study.later_latencies import LATENCY, with_later_latencies
from autoprune.study.leases import Heart
from autoprune.study.open_study import OpenStudy
from autoprune.study.optuna_sampler import OptunaDraw, distributions, proposal_seed
from autoprune.study.policy_params import Params, params_of
from autoprune.study.preparation import Preparation
from autoprune.study.resume import noted_by_sampler
from autoprune.study.storage import reporting_damage
from autoprune.study.trial_rows import TrialRows
from autoprune.study.workers import WorkerName

_WANTED = "wanted"  # the fact that says how many trials the study is to hold


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

    def propose(
        self,
        number: int,
        trials: Sequence[Trial],
        draw: Callable[[str, int], Params],
        pending: Sequence[Candidate] = (),
    ) -> Proposal:
        """Return the proposal that becomes candidate ``number``.

        Args:
            number: of the candidate.
            trials: every finished trial, by number.
            draw: (name, seed) → a value for every parameter, by one of Optuna's samplers; called at most once.
            pending: what other workers evaluate now, by number.
        """
        ...  # pragma: no cover


class Ledger:
    """A stored study, open for one of its workers.

    Args:
        url: Optuna storage URL.
        name: the study's name in that storage.
        objectives: metric names, in order.
        lock: file that workers hold locked together while they work; others lie beside it.
        grace_seconds: after which a candidate without a heartbeat is given to another worker.

    Attributes:
        reclaimed: how many candidates wait to be asked again, because their workers are gone.
        preparation: of the study, as this worker takes part in it.

    Raises:
        StudyLockedError: if another process removes the study.
        StudyError: if the storage cannot be opened, or serves one machine only and another one searches the study.
    """

    def __init__(
        self, url: str, name: str, objectives: Sequence[str], lock: Path, *, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        self.objectives = tuple(objectives)
        self._open = OpenStudy(url, name, objectives, lock, grace_seconds)
        self.reclaimed = self._open.reclaimed
        self._asked: dict[int, trial_format.TrialPlace] = {}  # by the candidate's number
        self._session = 0
        self._has_asked = False
        self._space: SearchSpace | None = None
        self._of_space: dict[str, BaseDistribution] = {}
        self._heart = Heart(self._open.storage, self._held, grace_seconds)
        self.preparation = Preparation(self._open, grace_seconds)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.close(gives_back=kind is None or issubclass(kind, Exception | KeyboardInterrupt | SystemExit))

    def close(self, *, gives_back: bool = True) -> None:
        """Let go of the study.

        Args:
            gives_back: whether what was asked and not told is free for others at once, rather than when they notice
                that this worker is gone.
        """
        self._heart.stop()
        self.preparation.close()
        if gives_back and self._has_asked:
            self._open.give_back()
        self._asked.clear()
        self._open.close()

    @property
    def trials(self) -> list[Trial]:
        """Return every finished trial, by number."""
        with reporting_damage(self._open.url):
            self._open.take_in()
            return self._open.tried(lambda _: self._finished())

    def _finished(self) -> list[Trial]:
        return with_later_latencies(
            self._open.known.trials, lambda: self._open.storage.get_study_user_attrs(self._open.study_id)
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is stored about the study as a whole."""
        with reporting_damage(self._open.url):
            return self._open.tried(
                lambda _: {key: parse_json(value) for key, value in self._open.study.user_attrs.items()}
            )

    def remember(self, key: str, value: Any) -> None:
        """Store a fact about the study as a whole, as JSON.

        Raises:
            StudyError: if it cannot be stored.
        """
        self._open.tried(lambda _: self._open.study.set_user_attr(key, json.dumps(value)))

    def add_latency(self, number: int, latency: HostLatency) -> None:
        """Store the latency of a trial that ended without one.

        Args:
            number: of the trial.
            latency: of its network.

        Raises:
            StudyError: if it cannot be stored.
        """
        self.remember(f"{LATENCY}{number}", latency.to_json())

    def want(self, trials: int) -> None:
        """Store how many trials the study is to hold; while others work on it, that is never lowered."""

        def store(_: bool) -> None:
            with self._open.alone():
                stored = self._stored_wanted() if self.others else 0
                self._open.study.set_user_attr(_WANTED, json.dumps(max(trials, stored)))

        self._open.tried(store)

    def wanted(self, trials: int) -> int:
        """Return how many trials the study is to hold: as stored by :meth:`want`, or else what is given."""
        return self._open.tried(lambda _: self._stored_wanted()) or trials

    def _stored_wanted(self) -> int:
        with reporting_damage(self._open.url):
            stored = self._open.storage.get_study_user_attrs(self._open.study_id).get(_WANTED)
            return 0 if stored is None else int(parse_json(stored))

    def check_place(self) -> None:
        """Raise if the study was deleted, moved or replaced since it was opened.

        Raises:
            StudyError: naming what is gone or another one.
        """
        self._open.tried(lambda _: self._open.place.check(self._open.rows))

    @property
    def worker(self) -> WorkerName:
        """Return which worker this is."""
        return self._open.worker

    @property
    def pending(self) -> list[int]:
        """Return the numbers of the candidates that are being evaluated, or were when their worker died."""
        with reporting_damage(self._open.url):
            self._open.take_in()
            return [candidate.number for candidate in self._open.known.pending]

    @property
    def others(self) -> list[WorkerName]:
        """Return the other workers: those of this folder, and those elsewhere that evaluate a candidate now."""
        return self._open.others

    def begin_session(self, facts: Mapping[str, object]) -> int:
        """Store that a run begins, with whatever describes it; return its number, from 0."""

        def begin(_: bool) -> int:
            with self._open.alone():
                known = self._open.study.user_attrs
                number = sum(key.startswith("session:") for key in known)
                started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                said = {"started": started, "worker": str(self._open.worker), **facts}
                self._open.study.set_user_attr(f"session:{number}", json.dumps(said))
                return number

        self._session = self._open.tried(begin)
        return self._session

    def ask(self, proposer: Proposer, seed: int) -> Candidate:
        """Return the next candidate, stored as running.

        A candidate that a dead worker left unfinished comes first, under its own number, with its own policy.

        Args:
            proposer: what to ask otherwise.
            seed: the study's seed; a candidate's own seed follows from it and its number.

        Raises:
            StudyError: if it cannot be stored, or the study was deleted, moved or replaced.
        """
        found = self.ask_within(proposer, seed, None)
        if found is None:
            raise ValueError("without a limit there is always a candidate; this is a bug in autoprune")
        return found

    def ask_within(self, proposer: Proposer, seed: int, wanted: int | None) -> Candidate | None:
        """Return what :meth:`ask` does; ``None`` if the study has enough trials with those that others evaluate now.

        Args:
            proposer: what to ask.
            seed: the study's seed.
            wanted: trials that the study is to reach; ``None`` for no limit.

        Raises:
            StudyError: as :meth:`ask`.
        """

        def ask(_: bool) -> tuple[trial_format.TrialPlace, Candidate] | None:
            with self._open.asking({place.number for place in self._asked.values()}) as rows:
                return self._ask_next(rows, proposer, seed, wanted)

        self._has_asked = True
        found = self._open.tried(ask)
        if found is None:
            return None
        place, candidate = found
        self._asked[candidate.number] = place
        self._heart.start()
        return candidate

    def _held(self) -> list[int]:
        return [place.trial_id for place in list(self._asked.values())]

    def _ask_next(
        self, rows: TrialRows, proposer: Proposer, seed: int, wanted: int | None
    ) -> tuple[trial_format.TrialPlace, Candidate] | None:
        space, known = proposer.space, self._open.known
        lost = known.lost
        if lost:
            records = known.records_of_lost(lost[0].number)
            noted = noted_by_sampler(self._open.storage, self._open.study_id, records)
            return rows.add(self._new_trial(space, lost[0], space.canonical(lost[0].policy), noted)), lost[0]
        trials, pending = self._finished(), known.pending
        if wanted is not None and len(trials) + len(pending) >= wanted:
            return None
        number = known.next_number
        draw = OptunaDraw(
            *(self._open.study, self._open.storage, self._open.study_id),
            self._distributions(space),
            has_company=bool(pending),
        )
        found = proposer.propose(number, trials, draw, pending)
        candidate = Candidate(number, found.policy, proposal_seed(seed, number), found.origin, found.budget)
        new = self._new_trial(space, candidate, found.policy, {})
        if draw.place is None:
            return rows.add(new), candidate
        rows.complete(draw.place, new)
        return draw.place, candidate

    def add(
        self, space: SearchSpace, proposal: Proposal, seed: int, outcome: Outcome, seconds: Mapping[str, float]
    ) -> Trial:
        """Store a trial that was evaluated without being asked, as a pick does, and return it.

        Args:
            space: of the study.
            proposal: what was evaluated.
            seed: the study's seed.
            outcome: how it ended.
            seconds: phase → seconds spent.

        Raises:
            StudyError: if it cannot be stored, or the study was deleted, moved or replaced.
        """

        def store(is_second: bool) -> Trial:
            with self._open.alone(self._open.place.check) as rows:
                self._open.known.take_in(rows)
                for known in self._open.known.trials if is_second else ():
                    if (known.candidate.origin, known.candidate.policy) == (proposal.origin, proposal.policy):
                        return known  # the connection was lost after the last write
                number = self._open.known.next_number
                made = Candidate(number, proposal.policy, proposal_seed(seed, number), proposal.origin, proposal.budget)
                place = rows.add(self._new_trial(space, made, space.canonical(proposal.policy), {}))
                rows.end(place, trial_format.trial_end(outcome, seconds, self.objectives))
                return Trial(made, outcome, seconds, self._session)

        return self._open.tried(store)

    def _new_trial(
        self, space: SearchSpace, candidate: Candidate, canonical: PruningPolicy, noted: Mapping[str, object]
    ) -> trial_format.NewTrial:
        record = trial_format.candidate_record(candidate, self._session, str(self._open.worker))
        attributes = {trial_format.CANDIDATE: record}
        return trial_format.NewTrial(params_of(space, canonical), self._distributions(space), attributes, noted)

    def _distributions(self, space: SearchSpace) -> dict[str, BaseDistribution]:
        """Return the distributions of a space, made once: it is the same at every ask."""
        if self._space is not space:
            self._space, self._of_space = space, distributions(space)
        return self._of_space

    def tell(self, candidate: Candidate, outcome: Outcome, seconds: Mapping[str, float]) -> Trial:
        """Store how a candidate ended.

        Raises:
            LeaseLostError: if another worker has taken the candidate over, since this one was not heard of for so long.
            StudyError: if it was not asked by this ledger, cannot be stored, or the study was deleted, moved or
                replaced.
        """
        place = self._asked.pop(candidate.number, None)
        if place is None:
            raise StudyError(f"candidate {candidate.number} was not asked in this run; ask before you tell")
        end = trial_format.trial_end(outcome, seconds, self.objectives)

        def write(is_second: bool) -> bool:
            with self._open.alone(self._open.place.check) as rows:
                found = rows.end(place, end)
            # it may have ended as it should just before the connection was lost
            return not found.is_finished() or (is_second and found == end.state)

        if not self._open.tried(write):
            raise LeaseLostError(
                f"trial {candidate.number} was given to another worker, since nothing had been heard of this one for "
                f"{self._open.grace_seconds:g} s; what it found here is set aside"
            )
        return Trial(candidate, outcome, seconds, self._session)
