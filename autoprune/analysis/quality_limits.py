"""How good a network must be to be picked: the worst value that will do, for any of the qualities a study measures.

Beside a :class:`Budget`, which limits what a network costs, these say what it must be worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import PER_CENT, Metric
from autoprune.errors import UsageError


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


def _miss(metric: Metric, worst: float, measured: Measurement) -> float:
    if metric.name not in measured.values:
        return 1.0
    short = max(0.0, metric.gain(worst, measured[metric.name]))
    return short if metric.unit == PER_CENT else short / (abs(worst) or 1.0)
