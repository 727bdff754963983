"""What the search was worth: the best network against the baselines and the dense one, each with its 95 % interval.

All networks are scored on the same validation examples. Where it is stored what each made of them, networks are
compared example by example (:func:`paired_difference`); otherwise by their scores, which is less sharp, and the notes
say so. Where a score has no standard error, no verdict is given. ``comparison_notes`` says it in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autoprune.analysis import pareto
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import CONFIDENT, Measurement
from autoprune.core.metrics import Metric
from autoprune.core.paired_scores import PairedScores, paired_difference
from autoprune.core.preference import PREFERRED, Preference
from autoprune.core.trial import Completed, Trial

DENSE = "dense"
Verdict = Literal["better", "not distinguishable", "worse", "unknown"]


def baselines_for(trials: Sequence[Trial], budget: Budget) -> list[Trial]:
    """Return the completed baselines made for a budget or, if none was, those that meet it all the same."""
    found = [(trial, m) for trial, m in pareto.measured(trials) if trial.candidate.is_baseline]
    made_for_it = [trial for trial, _ in found if trial.candidate.budget == budget]
    return made_for_it or [trial for trial, m in found if budget.admits(m)]


@dataclass(frozen=True)
class Scored:
    """A network's score on validation.

    Attributes:
        name: ``"uniform"``, ``"inner"`` …, or ``"dense"``.
        number: its trial's number, ``None`` for the dense network.
        measurement: has the score, perhaps with its standard error.
        paired: what it made of each example, the text of :class:`PairedScores`; empty if not stored.
    """

    name: str
    number: int | None
    measurement: Measurement
    paired: str = ""


@dataclass(frozen=True)
class Comparison:
    """By how much the best network is better than another one.

    Attributes:
        baseline: the other one: ``"uniform"``, ``"inner"`` …, or ``"dense"``.
        trial: the other one's number, ``None`` for the dense network.
        difference: by how much the best is better than the other, in the metric's unit as stored, of accuracy a
            fraction; below 0 if it is worse.
        stderr: standard error of the difference; ``None`` if the metric has none.
        paired: whether they were compared example by example.
    """

    baseline: str
    trial: int | None
    difference: float
    stderr: float | None
    paired: bool

    @property
    def low(self) -> float | None:
        """Return the lower end of the 95 % interval, ``None`` without a standard error."""
        return None if self.stderr is None else self.difference - CONFIDENT * self.stderr

    @property
    def high(self) -> float | None:
        """Return the upper end of the 95 % interval, ``None`` without a standard error."""
        return None if self.stderr is None else self.difference + CONFIDENT * self.stderr

    @property
    def verdict(self) -> Verdict:
        """Return what the best network is, seen from the other one: zero must lie outside the interval to tell."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "not distinguishable"

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; differences are in the unit in which the metric is stored."""
        return {
            "baseline": self.baseline,
            "trial": self.trial,
            "difference": self.difference,
            "stderr": self.stderr,
            "low": self.low,
            "high": self.high,
            "paired": self.paired,
            "verdict": self.verdict,
        }


def compare(one: Scored, other: Scored, quality: Metric) -> Comparison:
    """Compare two networks on validation.

    Unpaired, the standard error is √(se₁² + se₂²); the true one is mostly smaller, as both saw the same examples.
    Networks of which not the same is stored, as after another version, are compared so.
    """
    if one.paired and other.paired:
        mine, theirs = PairedScores(one.paired), PairedScores(other.paired)
        if mine.is_comparable(theirs):
            difference, error = paired_difference(mine, theirs)
            return Comparison(other.name, other.number, quality.gain(difference, 0.0), error, paired=True)
    name = quality.name
    gain = quality.gain(one.measurement[name], other.measurement[name])
    is_known = name in one.measurement.stderr and name in other.measurement.stderr
    error = math.hypot(one.measurement.error(name), other.measurement.error(name))
    return Comparison(other.name, other.number, gain, error if is_known else None, paired=False)


def scored(trials: Sequence[Trial]) -> list[Scored]:
    """Return the completed trials as :func:`compare` takes them."""
    return [
        Scored(one.candidate.origin.rpartition(":")[2], one.number, one.outcome.measurement, one.outcome.paired)
        for one in trials
        if isinstance(one.outcome, Completed)
    ]


def worth(
    trials: Sequence[Trial], budget: Budget, dense: Scored, quality: Metric, prefer: Preference = PREFERRED
) -> tuple[Comparison, ...]:
    """Return how the best network within a budget compares with the baselines, in order, and at last the dense one.

    Baselines that miss the budget, as one of latency may turn out, are left out; without a budget there are none. Of
    several of one name, from several budgets, the best counts. Empty if no trial meets the budget.
    """
    best, name = pareto.best_within(trials, budget, quality, prefer, dense.measurement), quality.name
    if best is None:
        return ()
    (winner,) = scored([best])
    rivals: dict[str, Scored] = {}
    for rival in scored(baselines_for(trials, budget)) if budget.limits else []:
        known = rivals.get(rival.name)
        is_better = known is None or quality.is_better(rival.measurement[name], known.measurement[name])
        if rival.number != best.number and budget.admits(rival.measurement) and is_better:
            rivals[rival.name] = rival
    return tuple(compare(winner, rival, quality) for rival in (*rivals.values(), dense))
