"""What trials' networks lose in int8, measured once a search has ended: where it is stored, and how trials get it.

A trial that has ended cannot be changed in Optuna's storage, so that this is a fact of the study under the trial's
number, as a later latency is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoprune.core.int8_loss import Int8Loss
from autoprune.core.json_values import parse_json
from autoprune.core.trial import Completed, Trial

INT8 = "int8:"  # followed by the trial's number


def with_int8_losses(trials: Sequence[Trial], facts: Mapping[str, str]) -> list[Trial]:
    """Return the trials, each with what its network loses in int8, where that was measured.

    Args:
        trials: finished ones.
        facts: what is stored about the study as a whole, as JSON by key.

    Raises:
        KeyError, TypeError, ValueError: if one is damaged.
    """
    return [_with_loss(trial, facts.get(f"{INT8}{trial.number}")) for trial in trials]


def _with_loss(trial: Trial, text: str | None) -> Trial:
    if text is None or not isinstance(trial.outcome, Completed):
        return trial
    found = Int8Loss.from_json(parse_json(text)).measurement
    return replace(trial, outcome=replace(trial.outcome, measurement=trial.outcome.measurement.merged(found)))
