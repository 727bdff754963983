"""How good a network must be to be picked: the worst value that will do, for any of the qualities a study measures.

Beside a :class:`Budget`, which limits what a network costs, these say what it must be worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import PER_CENT, Metric
from autoprune.errors import UnknownNameError, UsageError


@dataclass(frozen=True)
class QualityLimits:
    """The worst values that will do: the least where larger is better, the most where smaller is better.

    Attributes:
        values: quality metric → the worst value, as it is stored; of a fraction in [0, 1].

    Raises:
        UsageError: if a metric is a cost, which a budget limits.

    >>> limits = QualityLimits({Metric("accuracy"): 0.9, Metric("rmse", "mm"): 0.5})
    >>> limits.describe()
    'accuracy ≥ 90.00 % and rmse ≤ 0.5000 mm'
    >>> limits.admits(Measurement({"accuracy": 0.91, "rmse": 0.6}))
    False
    """

    values: Mapping[Metric, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        costs = [metric.name for metric in self.values if metric.is_cost]
        if costs:
            raise UsageError(f"{costs[0]} is a cost, and was given as a quality; limit it by a budget")

    @classmethod
    def parse(cls, given: Mapping[str, str | float], qualities: Sequence[Metric]) -> QualityLimits:
        """Return limits by name, as a person writes them.

        Args:
            given: quality → the worst value that will do, such as ``"97%"`` or ``0.5``.
            qualities: those of the study.

        Raises:
            UsageError: if a name is no quality of the study, or a value cannot be read.

        >>> QualityLimits.parse({"accuracy": "97%"}, [Metric("accuracy")]).describe()
        'accuracy ≥ 97.00 %'
        """
        known = {one.name: one for one in qualities}
        for name, value in given.items():
            if name not in known:
                raise UsageError(f"{name}={value}: {UnknownNameError('quality of this study', name, known)}")
        return cls(
            {known[name]: worst_value(known[name], str(value), f"{name}={value}") for name, value in given.items()}
        )

    def __bool__(self) -> bool:
        return bool(self.values)

    def admits(self, measured: Measurement) -> bool:
        """Return whether a network is good enough in everything; one that lacks a metric is not."""
        return all(
            metric.name in measured.values and not metric.is_better(worst, measured[metric.name])
            for metric, worst in self.values.items()
        )

    def miss(self, measured: Measurement) -> float:
        """Return by how much a network is too bad, summed: of a fraction as it is, else as a share of the limit."""
        return sum(_miss(metric, worst, measured) for metric, worst in self.values.items())

    def describe(self) -> str:
        """Return the limits in words."""
        return " and ".join(
            f"{metric.name} {'≥' if metric.goal == 'max' else '≤'} {metric.with_unit(worst)}"
            for metric, worst in self.values.items()
        )

    def check_measured(self, measured: Mapping[str, float]) -> None:
        """Check that a study measures what is limited.

        Args:
            measured: what is known of one of its networks, by metric.

        Raises:
            UsageError: naming the first metric that it does not.
        """
        for metric in self.values:
            if metric.name not in measured:
                raise UsageError(
                    f"{metric.name} was limited, and this study does not measure it; it measures "
                    f"{', '.join(measured) or 'nothing yet'}"
                )


def worst_value(metric: Metric, text: str, given: str) -> float:
    """Return a limit of a metric, from ``97%`` or ``0.97`` of a fraction, else a number in the metric's unit.

    Args:
        metric: that is limited.
        text: the limit.
        given: what was written, for messages.

    Raises:
        UsageError: if it is neither.
    """
    if metric.unit == PER_CENT:
        return fraction(given, text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        unit = f" in {metric.unit}" if metric.unit else ""
        raise UsageError(f"{given}: {metric.name} is limited by a number{unit}; write for example 0.5")
    return value


def fraction(given: str, text: str) -> float:
    """Read ``1%`` or ``0.01``.

    Raises:
        UsageError: if it is neither.

    >>> fraction("--max-drop", "1%")
    0.01
    """
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{given} {text!r} is neither a percentage nor a fraction; write for example 1% or 0.01")
    return value


def _miss(metric: Metric, worst: float, measured: Measurement) -> float:
    if metric.name not in measured.values:
        return 1.0
    short = max(0.0, metric.gain(worst, measured[metric.name]))
    return short if metric.unit == PER_CENT else short / (abs(worst) or 1.0)
