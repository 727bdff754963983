"""Units and directions: what is measured, and what is better.

This is the only module that knows whether a number should rise or fall, and in which unit it is
written. The registry is open: a task brings the metrics of its quality (:func:`register`). One FLOP is
one multiply–accumulate of a convolution, a linear layer or a matrix product, as in the pruning papers;
that is half of what PyTorch's ``FlopCounterMode`` prints.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast

from autoprune.errors import UnknownNameError, UsageError

BUDGET_GAP = 0.02  # a proposal uses 98–100 % of its budget, as whole channels allow
FLOP_CONVENTION = "one FLOP = one multiply–accumulate"
PER_CENT = "%"
TRAIN = "train_"  # before the name of a quality: the same over training examples
_NAME = re.compile(r"[a-z][a-z0-9_]*")

Goal = Literal["min", "max"]
# quality metrics that need no goal: what the field calls by these names has one
KNOWN_QUALITIES: Mapping[str, tuple[str, Goal]] = {
    **dict.fromkeys(
        ("accuracy", "miou", "iou", "dice", "map", "f1", "auroc", "precision", "recall"), (PER_CENT, "max")
    ),
    **dict.fromkeys(("wer", "cer", "error"), (PER_CENT, "min")),
    **dict.fromkeys(("rmse", "mse", "mae", "perplexity"), ("", "min")),
    "r2": ("", "max"),
    "psnr": ("dB", "max"),
}


@dataclass(frozen=True)
class Metric:
    """A named quantity with its unit and direction; the only code that negates.

    A name that the field knows (``accuracy``, ``miou``, ``rmse``, ``perplexity`` …) brings its own unit and goal.

    Attributes:
        name: key in measurements, files and options: lower-case letters, digits and underscores.
        unit: what one unit is; ``"%"`` for a fraction in [0, 1] that is shown in per cent.
        goal: ``"max"`` if larger is better, else ``"min"``; may be left out for a name that is known.
        is_cost: whether a budget can limit it.
        closed_form: whether it follows exactly from the policy, before anything is built.
        digits: decimals shown in tables; by default 2 of a percentage, and 4 of anything else.
        resolution: relative difference below which two networks count as equally good.
        help: what a budget on it limits, in words; empty for what no budget can limit.

    Raises:
        UsageError: if the name cannot be a key, or the goal is neither known nor given.

    >>> Metric("rmse", "mm"), Metric("psnr").goal
    (Metric(name='rmse', unit='mm', goal='min'), 'max')
    """

    name: str
    unit: str = ""
    goal: Literal["min", "max", ""] = ""
    is_cost: bool = False
    closed_form: bool = False
    digits: int = -1
    resolution: float = 0.0
    help: str = ""

    def __post_init__(self) -> None:
        unit, goal = KNOWN_QUALITIES.get(self.name, ("", ""))
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"metric {self.name!r}: expected lower-case letters, digits and '_', beginning with a letter"
            )
        if (self.goal or goal) not in ("min", "max"):
            raise UsageError(
                f"metric {self.name!r} has the goal {self.goal!r}; give 'max' if larger is better, or 'min': "
                f"Metric({self.name!r}, goal='max') in Python, {self.name}:max in a command"
            )
        object.__setattr__(self, "unit", self.unit or unit)
        object.__setattr__(self, "goal", self.goal or goal)
        if self.digits < 0:
            object.__setattr__(self, "digits", 2 if self.unit == PER_CENT else 4)

    def __repr__(self) -> str:
        return f"Metric(name={self.name!r}, unit={self.unit!r}, goal={self.goal!r})"

    @classmethod
    def parse(cls, text: str) -> Metric:
        """Return the metric of ``NAME``, ``NAME:GOAL`` or ``NAME:GOAL:UNIT``; a name of the registry needs no more.

        Raises:
            UsageError: if it is neither.

        >>> Metric.parse("dice"), Metric.parse("lpips:min")
        (Metric(name='dice', unit='%', goal='max'), Metric(name='lpips', unit='', goal='min'))
        """
        name, _, rest = text.partition(":")
        goal, _, unit = rest.partition(":")
        known = METRICS.get(name)
        return known if known is not None and not rest else cls(name, unit, cast(Goal, goal))

    @property
    def text(self) -> str:
        """Return what :meth:`parse` reads."""
        return f"{self.name}:{self.goal}:{self.unit}".rstrip(":")

    def fault_of(self, value: float) -> str:
        """Return why a value cannot be of this metric, and what to do; empty if it can.

        >>> METRICS["accuracy"].fault_of(0.875), Metric("psnr").fault_of(87.5)
        ('', '')
        """
        if self.unit != PER_CENT or -1e-6 <= value <= 1 + 1e-6:
            return ""
        return (
            "a metric in % is a fraction from 0 to 1; divide the score by 100, or give the metric another unit: "
            f"Metric({self.name!r}, 'points', {self.goal!r})"
        )

    def minimised(self, value: float) -> float:
        """Return ``value`` with the sign under which smaller is better."""
        return -value if self.goal == "max" else value

    def as_loss(self, value: float) -> float:
        """Return what stands for the loss where there is none: what is wrong, of a fraction that should be large.

        Of other metrics it is the value, so signed that less is better.

        >>> METRICS["accuracy"].as_loss(0.75), Metric("psnr").as_loss(30.0)
        (0.25, -30.0)
        """
        return 1 - value if self.unit == PER_CENT and self.goal == "max" else self.minimised(value)

    def is_the_loss(self, values: Mapping[str, float]) -> bool:
        """Return whether the loss among some values is only this metric's stand-in, by :meth:`as_loss`.

        >>> Metric("rmse").is_the_loss({"rmse": 0.5, "loss": 0.5}), Metric("rmse").is_the_loss({"rmse": 0.5, "loss": 2})
        (True, False)
        """
        return self.name in values and values.get("loss") == self.as_loss(values[self.name])

    def is_better(self, value: float, other: float, tolerance: float = 0.0) -> bool:
        """Return whether ``value`` beats ``other`` by more than ``tolerance``.

        >>> METRICS["accuracy"].is_better(0.91, 0.90), METRICS["mflops"].is_better(50, 40)
        (True, False)
        """
        return self.minimised(value) < self.minimised(other) - tolerance

    def gain(self, value: float, other: float) -> float:
        """Return by how much ``value`` is better than ``other``; below 0 if it is worse."""
        return self.minimised(other) - self.minimised(value)

    @property
    def scale(self) -> float:
        """Return what a value is multiplied by where it is shown: 100 for a fraction."""
        return 100.0 if self.unit == PER_CENT else 1.0

    def show(self, value: float) -> str:
        """Return the value as tables print it: a fraction in per cent, with its sign; the rest as a plain number.

        >>> METRICS["accuracy"].show(0.9144), METRICS["mflops"].show(50)
        ('91.44 %', '50.00')
        """
        return f"{self.number(value)} %" if self.unit == PER_CENT else self.number(value)

    def number(self, value: float) -> str:
        """Return the value as a plain number, a fraction times 100; a small cost with two significant digits.

        >>> METRICS["mflops"].number(0.00481), METRICS["mflops"].number(1.5)
        ('0.0048', '1.50')
        """
        return f"{self.scale * value:.{decimals(value, self.digits) if self.is_cost else self.digits}f}"

    def with_unit(self, value: float) -> str:
        """Return the value with its unit.

        >>> METRICS["accuracy"].with_unit(0.9144), METRICS["latency_ms"].with_unit(1.5)
        ('91.44 %', '1.500 ms')
        """
        return self.show(value) if self.unit == PER_CENT else f"{self.show(value)} {self.unit}".rstrip()

    @property
    def gap_unit(self) -> str:
        """Return the unit of a difference of two values: ``points`` for fractions."""
        return "points" if self.unit == PER_CENT else self.unit

    def gap(self, difference: float, sign: str = "") -> str:
        """Return a difference of two values with its unit; ``sign`` is ``"+"`` to show that of a gain.

        >>> METRICS["accuracy"].gap(0.0231), Metric("rmse", "mm").gap(0.5, "+")
        ('2.31 points', '+0.5000 mm')
        """
        return f"{self.scale * difference + 0.0:{sign}.{self.digits}f} {self.gap_unit}".rstrip()

    @property
    def unit_or_fraction(self) -> str:
        """Return the unit in which values are stored, ``fraction`` for what is shown in per cent."""
        return "fraction" if self.unit == PER_CENT else self.unit

    def rounded_up(self, value: float) -> float:
        """Return the least value of as many decimals as are shown that is not below ``value``.

        >>> METRICS["mflops"].rounded_up(1.234567), METRICS["mflops"].rounded_up(1.1)
        (1.24, 1.1)
        """
        scale = 10.0**self.digits
        return math.ceil(round(value * scale, 6)) / scale

    def worst(self, dense: float) -> float:
        """Return a value that nothing worth having is worse than, given the dense network's.

        That is zero where larger is better, and twice the dense network's where smaller is better.
        """
        return min(0.0, 2 * dense) if self.goal == "max" else max(0.0, 2 * dense)

    def perfect(self, dense: float) -> float:
        """Return a value that nothing is better than: 1 of a fraction, 0 where smaller is better.

        Where there is no such number, it is twice as good as the dense network's.
        """
        if self.goal == "min":
            return min(0.0, 2 * dense)
        return 1.0 if self.unit == PER_CENT else max(0.0, 2 * dense)


def _cost(name: str, unit: str, described: str, digits: int = 2, *, closed_form: bool = True) -> Metric:
    resolution = BUDGET_GAP if closed_form else 0.0
    return Metric(name, unit, "min", True, closed_form, digits, resolution, described)


def _loss(name: str) -> Metric:
    return Metric(name, "", "min")  # in the unit of the task's own loss


LOSSES = ("loss", "recalibrated_loss", "midway_loss", "halfway_loss")  # the last is what older studies hold
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy"),
        Metric("train_accuracy", PER_CENT, "max"),
        *map(_loss, LOSSES),
        _cost("mflops", "MFLOPs", f"MFLOPs ({FLOP_CONVENTION})"),
        _cost("mparams", "M parameters", "million parameters", 4),
        _cost("nonzero_mflops", "MFLOPs that are not zero", "MFLOPs with weights that are not zero (for masks)"),
        _cost(
            "nonzero_mparams", "M parameters that are not zero", "million parameters that are not zero (for masks)", 4
        ),
        _cost("latency_ms", "ms", "milliseconds on this device", 3, closed_form=False),
        _cost(
            "size_mb", "MB", "MB of what is shipped: float32 weights, or the int8 file where latency.format is int8", 3
        ),
    )
}
ACCURACY = METRICS["accuracy"]


def decimals(value: float, usual: int) -> int:
    """Return with how many decimals a number is shown: more where the usual ones show nothing, two significant digits.

    >>> decimals(40.0, 2), decimals(0.00481, 2), decimals(0.0, 2)
    (2, 4, 2)
    """
    shows_nothing = 0 < abs(value) < 0.5 * 10.0**-usual
    return 1 - math.floor(math.log10(abs(value))) if shows_nothing else usual


def register(metrics: Iterable[Metric]) -> None:
    """Add the quality metrics of a task to the registry, each with the same over training examples.

    Raises:
        UsageError: if a name already stands for a cost, or for a quality of another goal, or in per cent
            where the new one is not.
    """
    for new in metrics:
        old = METRICS.get(new.name)
        if old is None:
            _insert(new)
            _insert(Metric(f"{TRAIN}{new.name}", new.unit, new.goal, digits=new.digits))
        elif (old.goal, old.is_cost, old.scale) == (new.goal, new.is_cost, new.scale):
            METRICS[new.name] = new  # another study's, in another unit perhaps
        else:
            raise UsageError(
                f"metric {new.name!r} is to be {_described(new)}, and is known here as {_described(old)}; "
                "give it another name"
            )


def _insert(new: Metric) -> None:
    """Put a metric before the costs, since tables show quality first."""
    costs = {name: METRICS.pop(name) for name in list(METRICS) if METRICS[name].is_cost}
    METRICS.update({new.name: new, **costs})


def _described(one: Metric) -> str:
    kind = "a cost" if one.is_cost else "a quality"
    return f"{kind} {f'in {one.unit} ' if one.unit else ''}whose goal is {one.goal}"


def metric(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]
