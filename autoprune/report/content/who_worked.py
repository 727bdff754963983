"""Who evaluated what: the share of each worker in a study's trials, and the time it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.json_values import JsonObject
from autoprune.core.trial import Trial
from autoprune.study.study_facts import SessionFacts


@dataclass(frozen=True)
class WorkerShare:
    """What one run of one worker did.

    Attributes:
        session: the run's number.
        host: the machine; empty if it is not stored.
        device: what it trained on.
        trials: finished trials.
        seconds: spent in them.
    """

    session: int
    host: str
    device: str
    trials: int
    seconds: float

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "session": self.session,
            "host": self.host,
            "device": self.device,
            "trials": self.trials,
            "seconds": self.seconds,
        }


def worker_shares(trials: Sequence[Trial], sessions: Sequence[SessionFacts]) -> tuple[WorkerShare, ...]:
    """Return the share of each run that finished a trial, by its number.

    Args:
        trials: finished ones.
        sessions: what is stored of each run, in order.
    """
    shares = []
    for number, session in enumerate(sessions):
        own = [trial.total_seconds for trial in trials if trial.session == number]
        if own:
            words = (str(session.runtime[name]) for name in ("device", "device_name") if session.runtime.get(name))
            shares.append(WorkerShare(number, session.host, " ".join(words), len(own), sum(own)))
    return tuple(shares)


def shares_in_words(shares: Sequence[WorkerShare]) -> str:
    """Return who evaluated what, in words; empty if it was one run.

    >>> shares_in_words([WorkerShare(0, "node1", "cpu", 5, 50.0), WorkerShare(1, "node2", "cpu", 3, 40.2)])
    'run 0 on node1 evaluated 5 trials in 50 s, run 1 on node2 3 in 40 s'
    """
    if len(shares) < 2:
        return ""
    first, *rest = (
        (f"run {one.session}" + (f" on {one.host}" if one.host else ""), one.trials, f"{one.seconds:.0f} s")
        for one in shares
    )
    told = [f"{first[0]} evaluated {first[1]} trials in {first[2]}"]
    return ", ".join([*told, *(f"{name} {count} in {seconds}" for name, count, seconds in rest)])
