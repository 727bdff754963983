"""Early stopping: what a candidate's loss on its way foretells, by finished trials of similar cost.

A candidate is looked at on its way: its exact cost, its loss after recalibration, its loss half-way through the
fine-tune (with batch norm recalibrated once more), and last its full score and timing. At the two in the middle an
:class:`EarlyStopper` predicts its final loss from trials that came to their end. It is stopped if it can no longer beat
the best of those that meet all its limits: one made for a lower latency need not beat slower networks of the same
MFLOPs, and where latency is traded without a limit it is never stopped. All that decides is stored, so a search that
was killed decides as if it had not been.

Source: Domhan, Springenberg and Hutter, "Speeding up automatic hyperparameter optimization of deep neural networks by
extrapolation of learning curves", IJCAI 2015, section 3.3 (end a run that surely stays below the best); here the curve
is a line through other trials' losses at one look, which needs no model of learning curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.core.trial import Candidate, Completed, Stopped, Trial, completed_measurement

Look = Literal["recalibrated_loss", "midway_loss"]
LOOKS: Mapping[Look, str] = {
    "recalibrated_loss": "after recalibration",
    "midway_loss": "half-way through the fine-tune",
}

SIMILAR_COST = 0.10  # relative difference up to which two trials are peers
FEWEST_PEERS = 8
LEAST_AGREEMENT = 0.5  # rank correlation below which a look foretells too little to stop by
DEVIATIONS = 2.0  # residual standard deviations given to the candidate's favour
FASTER = ("guided:faster", "screened:faster")  # the origins of what is made to trade loss for latency
CHECK_EVERY = 5  # of the candidates that would be stopped, this one runs to its end to show whether the rule is right

_LEAST_LOSS = 1e-6  # a perfect network's loss has no logarithm

Losses: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class GoOn:
    """The candidate may still win, or too little is known."""


@dataclass(frozen=True)
class Stop:
    """The candidate can no longer win, and why."""

    reason: str


@dataclass(frozen=True)
class RunToCheck:
    """The candidate would be stopped, and runs to its end all the same, to check the rule."""

    reason: str


Decision: TypeAlias = GoOn | Stop | RunToCheck


@dataclass(frozen=True)
class EarlyStopper:
    """What decides at each look whether one candidate goes on.

    Attributes:
        candidate: the one that is looked at; baselines are never stopped.
        trials: every finished trial before it, all looked at on the same examples.
    """

    candidate: Candidate
    trials: Sequence[Trial]

    def decide(self, look: Look, loss: float, exact: Measurement) -> Decision:
        """Return whether the candidate goes on.

        Args:
            look: where it is.
            loss: its validation loss there; if NaN or infinite it is stopped at once, unless nothing ever
                completed: it then goes on and fails with the cause, as a search in which all fail has to end.
            exact: its closed-form costs.
        """
        if self.candidate.is_baseline:
            return GoOn()
        if not math.isfinite(loss):
            if not any(isinstance(trial.outcome, Completed) for trial in self.trials):
                return GoOn()
            return Stop(f"its validation loss {LOOKS[look]} is {loss}")
        budget = self.candidate.budget
        if self.candidate.origin in FASTER and "latency_ms" not in budget.limits:
            return GoOn()
        peers = peers_of(self.trials, look, budget, exact)
        rivals = [m["loss"] for m in peers if are_rivals(m, exact, budget)]
        found = forecast([m[look] for m in peers], [m["loss"] for m in peers], loss)
        if found is None or not rivals or found.at_best <= _least(min(rivals)):
            return GoOn()
        reason = (
            f"loss {loss:.4f} {LOOKS[look]} foretells {found.expected:.4f} at the end, {found.at_best:.4f} at best; "
            f"the best of {len(rivals)} peers within its budget has {min(rivals):.4f}"
        )
        return RunToCheck(reason) if self._check_is_owed() else Stop(reason)

    def _check_is_owed(self) -> bool:
        """Return whether this one, counted with those before it, makes up a full round without a check."""
        checks = sum(bool(was_spared(trial)) for trial in self.trials)
        stopped = sum(isinstance(trial.outcome, Stopped) for trial in self.trials)
        return (stopped + checks + 1) // CHECK_EVERY > checks


@dataclass(frozen=True)
class Forecast:
    """Losses: what is expected at the end, and what is still plausible."""

    expected: float
    at_best: float


def forecast(at_look: Sequence[float], final: Sequence[float], loss: float) -> Forecast | None:
    """Predict a final loss from a loss at a look, by the least-squares line through the peers' log-losses.

    Losses that may be negative, as log-likelihoods of densities are, have no logarithm: they are taken as they are.

    Args:
        at_look: the peers' losses at the look.
        final: their final losses, in the same order.
        loss: the candidate's loss at the look; finite.

    Returns:
        the prediction, ``at_best`` being two residual standard deviations lower; ``None`` if the peers allow none:
        fewer than 8, ranks that agree less than 0.5, a line that does not rise, or a candidate ahead of them all.

    >>> look, final = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2], [0.11, 0.12, 0.13, 0.17, 0.18, 0.20, 0.21, 0.25]
    >>> found = forecast(look, final, 2.0)
    >>> round(found.expected, 2), round(found.at_best, 2)
    (0.38, 0.34)
    >>> forecast(look[:7], final[:7], 2.0) is None
    True
    """
    if len(at_look) < FEWEST_PEERS or rank_agreement(at_look, final) < LEAST_AGREEMENT:
        return None
    is_signed = min(*at_look, *final, loss) < 0
    scaled = _as_they_are if is_signed else _logs
    x, y, now = scaled(at_look), scaled(final), float(scaled([loss])[0])
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    if slope <= 0 or now <= float(x.min()):
        return None
    line = y.mean() + slope * (x - x.mean())
    deviation = math.sqrt(float(np.sum((y - line) ** 2)) / (len(x) - 2))
    expected = float(y.mean()) + slope * (now - float(x.mean()))
    at_best = expected - DEVIATIONS * deviation
    return Forecast(expected, at_best) if is_signed else Forecast(_exp(expected), _exp(at_best))


def rank_agreement(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the rank correlation in [−1, 1], equal values sharing their mean rank; 0 if one of them never varies.

    Source: Spearman, "The proof and measurement of association between two things", American Journal of Psychology
    15 (1904).

    >>> rank_agreement([1, 2, 3, 4], [10, 20, 40, 30]), rank_agreement([1, 1, 1], [1, 2, 3])
    (0.8, 0.0)
    """
    a, b = _ranks(one), _ranks(other)
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b)))
    return round(float(np.sum(a * b)) / spread, 12) if spread > 0 else 0.0


def peers_of(trials: Sequence[Trial], look: Look, budget: Budget, exact: Measurement) -> list[Measurement]:
    """Return what the completed trials of similar cost measured that have a loss at this look.

    Cost is the metric of the budget's tightest closed-form limit, MFLOPs without one; similar is within 10 %.

    Args:
        trials: any trials.
        look: whose losses are compared.
        budget: absolute limits that the candidate was made for.
        exact: the candidate's costs.
    """
    completed = [m for trial in trials if (m := completed_measurement(trial)) is not None]
    return [m for m in completed if {look, "loss"} <= m.values.keys() and costs_alike(m, exact, budget)]


def are_rivals(one: Measurement, other: Measurement, budget: Budget) -> bool:
    """Return whether one network costs what the other does (:func:`costs_alike`) and meets the other's budget."""
    return costs_alike(one, other, budget) and not budget.violations_of_known(one)


def costs_alike(one: Measurement, other: Measurement, budget: Budget) -> bool:
    """Return whether one network costs within 10 % of what the other does, in the tightest metric of a budget."""
    name = _tightest(budget, other)
    return name in one.values and abs(one[name] - other[name]) <= SIMILAR_COST * other[name]


def was_spared(trial: Trial) -> str:
    """Return why a trial that ran to its end as a check would have been stopped; empty for any other."""
    return trial.outcome.spared if isinstance(trial.outcome, Completed) else ""


def _tightest(budget: Budget, exact: Measurement) -> str:
    limits = {name: limit for name, limit in budget.limits.items() if METRICS[name].closed_form}
    shares = {name: exact[name] / limit.value for name, limit in sorted(limits.items()) if name in exact.values}
    return max(shares, key=lambda name: shares[name], default="mflops")


def _least(loss: float) -> float:
    """Return a loss, none between 0 and what has a logarithm."""
    return loss if loss < 0 else max(loss, _LEAST_LOSS)


def _as_they_are(losses: Sequence[float]) -> Losses:
    return np.asarray(losses, dtype=np.float64)


def _logs(losses: Sequence[float]) -> Losses:
    return np.log(np.maximum(np.asarray(losses, dtype=np.float64), _LEAST_LOSS))


def _exp(log_loss: float) -> float:
    """Return the loss of a logarithm, at most 1e300: a line may foretell more than a float can hold."""
    return math.exp(min(log_loss, 690.0))


def _ranks(values: Sequence[float]) -> Losses:
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    means: Losses = np.cumsum(counts) - (counts - 1) / 2
    return means[place]
