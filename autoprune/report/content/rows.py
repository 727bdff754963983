"""The rows of a report: one network each, with what it costs as a share of the dense one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.analysis import pareto
from autoprune.analysis.comparison import baselines_for
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, TRAIN, Metric
from autoprune.core.preference import Preference
from autoprune.core.trial import Completed, Failed, Trial

LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Row:
    """One completed trial as the report shows it.

    Attributes:
        number: the trial's number.
        origin: where its policy comes from: ``"uniform"``, ``"inner"``, ``"global"``, ``"tpe"`` …
        is_baseline: whether it is a policy to compare with.
        on_front: whether it is on the front that is shown.
        is_best: whether it is what a pick for the budget would take.
        is_knee: whether it is where the front bends.
        measurement: what was measured of it.
        ratios: cost metric → value / dense value.
        quality_drop: by how much its quality is worse than the dense network's, as stored, of accuracy a fraction;
            below 0 if it is better.
        budget_used: share of the tightest limit that it uses; ``None`` without a budget.
        quality: what it is judged by.
        latency_host: name of the machine that timed it; empty if that is not stored.
    """

    number: int
    origin: str
    is_baseline: bool
    on_front: bool
    is_best: bool
    is_knee: bool
    measurement: Measurement
    ratios: Mapping[str, float]
    quality_drop: float
    budget_used: float | None
    quality: Metric
    latency_host: str = ""

    @property
    def fits(self) -> bool:
        """Return whether it meets every limit of the budget."""
        return self.budget_used is None or round(self.budget_used - 1, 12) <= 0

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; the gap is ``None`` if no training score was recorded."""
        return {
            "trial": self.number,
            "origin": self.origin,
            "baseline": self.is_baseline,
            "on_front": self.on_front,
            "best": self.is_best,
            "knee": self.is_knee,
            "within_budget": self.fits,
            "budget_used": self.budget_used,
            f"{self.quality.name}_drop": self.quality_drop,
            "generalisation_gap": generalisation_gap(self.measurement, self.quality),
            "ratios": dict(self.ratios),
            "values": dict(self.measurement.values),
            "stderr": dict(self.measurement.stderr),
            "latency_host": self.latency_host,
        }


@dataclass(frozen=True)
class Failure:
    """A trial that could not be evaluated, with the exception's class and the first line of its message."""

    number: int
    error: str
    message: str

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"trial": self.number, "error": self.error, "message": self.message}


def choose_rows(
    trials: Sequence[Trial],
    budget: Budget,
    dense: Measurement,
    objectives: Sequence[str],
    quality: Metric,
    noise_aware: bool,
    prefer: Preference,
) -> tuple[Row, ...]:
    """Return the front, best first, then the best network for the budget and the baselines that are not on it.

    Args:
        trials: any trials.
        budget: absolute limits; may be empty.
        dense: what was measured of the dense network.
        objectives: metric names, the quality first.
        quality: what networks are judged by.
        noise_aware: whether values within their standard error count as equal.
        prefer: what decides which of several networks that are as good within noise is the best.
    """
    front = pareto.front(trials, objectives, noise_aware)
    best = pareto.best_within(trials, budget, quality, prefer, dense)
    knee = pareto.knee(front, objectives)
    on_front = {trial.number for trial in front}
    shown = {trial.number: trial for trial in (*front, *([best] if best else []), *baselines_for(trials, budget))}
    return tuple(
        Row(
            number=trial.number,
            origin=trial.candidate.origin.rpartition(":")[2],
            is_baseline=trial.candidate.is_baseline,
            on_front=trial.number in on_front,
            is_best=best is not None and trial.number == best.number,
            is_knee=knee is not None and trial.number == knee.number,
            measurement=measurement,
            ratios=cost_ratios(measurement, dense),
            quality_drop=quality.gain(dense[quality.name], measurement[quality.name]),
            budget_used=share_of_budget(measurement, budget),
            quality=quality,
            latency_host=trial.outcome.latency_host if isinstance(trial.outcome, Completed) else "",
        )
        for trial, measurement in pareto.measured(list(shown.values()))
    )


def cost_ratios(measurement: Measurement, dense: Measurement) -> dict[str, float]:
    """Return cost metric → value / dense value, for the costs that both have.

    >>> cost_ratios(Measurement({"mflops": 50.0, "accuracy": 0.9}), Measurement({"mflops": 100.0}))
    {'mflops': 0.5}
    """
    return {
        name: measurement[name] / dense[name]
        for name, known in METRICS.items()
        if known.is_cost and name in measurement.values and dense.values.get(name, 0.0) > 0
    }


def generalisation_gap(measurement: Measurement, quality: Metric) -> float | None:
    """Return by how much a network is better on training examples than on validation; ``None`` if either is not known.

    >>> generalisation_gap(Measurement({"accuracy": 0.75, "train_accuracy": 1.0}), METRICS["accuracy"])
    0.25
    """
    seen = f"{TRAIN}{quality.name}"
    if not {quality.name, seen} <= measurement.values.keys():
        return None
    return quality.gain(measurement[seen], measurement[quality.name])


def share_of_budget(measurement: Measurement, budget: Budget) -> float | None:
    """Return the share of the tightest limit that a network uses; ``None`` without limits.

    >>> share_of_budget(Measurement({"mflops": 45.0}), Budget.parse({"mflops": 50}))
    0.9
    """
    return max((measurement[name] / limit.value for name, limit in budget.limits.items()), default=None)


def short(value: float) -> str:
    """Return a cost in three or four significant digits.

    >>> short(4089.2), short(125.75), short(40.81), short(0.27042)
    ('4089', '126', '40.8', '0.270')
    """
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return seconds in the unit a person would use.

    >>> duration(42), duration(750), duration(9000)
    ('42 s', '12.5 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def failures(trials: Sequence[Trial]) -> tuple[Failure, ...]:
    """Return the failed trials in order."""
    return tuple(
        Failure(trial.number, trial.outcome.error, first_line(trial.outcome.message))
        for trial in trials
        if isinstance(trial.outcome, Failed)
    )


def first_line(message: str) -> str:
    r"""Return the first line of a message, without control characters.

    >>> first_line("\n out of memory \x1b[2J\nmore")
    'out of memory  [2J'
    """
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    return "".join(character if character.isprintable() else " " for character in line[:LONGEST_MESSAGE])
