"""Latencies that came after their trials had ended: where they are stored, and how they join what the trials say.

A trial that has ended cannot be changed in Optuna's storage, so that a later latency is a fact of the study under the
trial's number. Who reads trials reads them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autoprune.core.json_values import parse_json
from autoprune.core.trial import HostLatency, Trial, Untimed

LATENCY = "latency:"  # followed by the trial's number


def untimed(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that still lack their latency, in order."""
    return [trial for trial in trials if isinstance(trial.outcome, Untimed)]


def with_later_latencies(trials: Sequence[Trial], facts: Callable[[], Mapping[str, str]]) -> list[Trial]:
    """Return the trials, each with the latency that came later, if it has come.

    Args:
        trials: finished ones, as they were told.
        facts: returns what is stored about the study as a whole, as JSON by key; asked only if a latency is lacking.

    Raises:
        KeyError, TypeError, ValueError: if a latency is damaged.
    """
    if not untimed(trials):
        return list(trials)
    stored = facts()
    return [_timed(trial, stored.get(f"{LATENCY}{trial.number}")) for trial in trials]


def _timed(trial: Trial, text: str | None) -> Trial:
    if text is None or not isinstance(trial.outcome, Untimed):
        return trial
    return replace(trial, outcome=trial.outcome.timed(HostLatency.from_json(parse_json(text))))
