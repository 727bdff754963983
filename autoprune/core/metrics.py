"""Units and directions: what is measured, and what is better.

This is the only module that knows whether a number should rise or fall, and in which unit it is
written. One FLOP is one multiply–accumulate of a convolution, a linear layer or a matrix product,
as in the pruning papers; that is half of what PyTorch's ``FlopCounterMode`` prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import UnknownNameError

BUDGET_GAP = 0.02  # a proposal uses 98–100 % of its budget, as whole channels allow
FLOP_CONVENTION = "one FLOP = one multiply–accumulate"


@dataclass(frozen=True)
class Metric:
    """A named quantity with its unit and direction; the only code that negates.

    Attributes:
        name: key in measurements, files and options.
        unit: what one unit is; empty for a fraction.
        goal: ``"max"`` if larger is better, else ``"min"``.
        worst: the value that nothing is worse than.
        is_cost: whether a budget can limit it.
        closed_form: whether it follows exactly from the policy, before anything is built.
        digits: decimals shown in tables.
        resolution: relative difference below which two networks count as equally good.
        help: what a budget on it limits, in words; empty for what no budget can limit.
    """

    name: str
    unit: str
    goal: Literal["min", "max"]
    worst: float
    is_cost: bool
    closed_form: bool = False
    digits: int = 2
    resolution: float = 0.0
    help: str = ""

    def minimised(self, value: float) -> float:
        """Return ``value`` with the sign under which smaller is better."""
        return -value if self.goal == "max" else value

    def is_better(self, value: float, other: float, tolerance: float = 0.0) -> bool:
        """Return whether ``value`` beats ``other`` by more than ``tolerance``.

        >>> METRICS["accuracy"].is_better(0.91, 0.90), METRICS["mflops"].is_better(50, 40)
        (True, False)
        """
        return self.minimised(value) < self.minimised(other) - tolerance

    def show(self, value: float) -> str:
        """Return the value as tables print it: accuracy in per cent, the rest in its unit."""
        in_per_cent = self.name.endswith("accuracy")
        return f"{100 * value:.{self.digits}f} %" if in_per_cent else f"{value:.{self.digits}f}"

    def rounded_up(self, value: float) -> float:
        """Return the least value of as many decimals as are shown that is not below ``value``.

        >>> METRICS["mflops"].rounded_up(1.234567), METRICS["mflops"].rounded_up(1.1)
        (1.24, 1.1)
        """
        scale = 10.0**self.digits
        return math.ceil(round(value * scale, 6)) / scale


def _quality(name: str, unit: str, goal: Literal["max", "min"], digits: int = 2) -> Metric:
    return Metric(name, unit, goal, 0.0 if goal == "max" else math.inf, is_cost=False, digits=digits)


def _cost(name: str, unit: str, described: str, digits: int = 2, *, closed_form: bool = True) -> Metric:
    resolution = BUDGET_GAP if closed_form else 0.0
    return Metric(name, unit, "min", math.inf, True, closed_form, digits, resolution, described)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        _quality("accuracy", "", "max"),
        _quality("train_accuracy", "", "max"),
        _quality("loss", "nats", "min", 4),
        _quality("recalibrated_loss", "nats", "min", 4),
        _quality("midway_loss", "nats", "min", 4),
        _quality("halfway_loss", "nats", "min", 4),  # what older studies hold instead
        _cost("mflops", "MFLOPs", f"MFLOPs ({FLOP_CONVENTION})"),
        _cost("mparams", "M parameters", "million parameters", 4),
        _cost("nonzero_mflops", "MFLOPs that are not zero", "MFLOPs with weights that are not zero (for masks)"),
        _cost(
            "nonzero_mparams", "M parameters that are not zero", "million parameters that are not zero (for masks)", 4
        ),
        _cost("latency_ms", "ms", "milliseconds on this device", 3, closed_form=False),
        _cost("size_mb", "MB", "MB of stored float32 weights", 3),
    )
}


def metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]
