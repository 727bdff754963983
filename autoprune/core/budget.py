"""What a network may cost: limits by metric, absolute or relative to the dense network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS, metric
from autoprune.errors import BudgetError, UnknownNameError

_COUNTED_IN_MILLIONS = ("mflops", "mparams", "nonzero_mflops", "nonzero_mparams")
_LIMIT = re.compile(r"^\s*(?P<digits>\d+\.?\d*|\.\d+)([eE](?P<power>[+-]?\d{1,4}))?\s*(?P<suffix>%|[kKMG]?)\s*$")
_POWER = {"%": -2, "k": -3, "K": -3, "": 0, "M": 0, "G": 3}


@dataclass(frozen=True)
class Limit:
    """A bound on one metric, absolute or a fraction of the dense network's value.

    Attributes:
        value: in the metric's unit; if ``relative``, a fraction in (0, 1).
        relative: whether the dense network's value is the unit.
    """

    value: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str | float, name: str) -> Limit:
        """Read ``50``, ``50M`` or ``40%``.

        Args:
            text: what the user wrote; suffixes K, M, G are for MFLOPs and parameters, M being the unit.
            name: the metric's name.

        Raises:
            BudgetError: if it is not a positive number or a percentage in (0, 100).

        >>> Limit.parse("40%", "mflops"), Limit.parse("1.2G", "mflops").value
        (Limit(value=0.4, relative=True), 1200.0)
        """
        matched = _LIMIT.match(str(text))
        suffix = matched["suffix"] if matched else ""
        allowed = suffix in ("", "%") or name in _COUNTED_IN_MILLIONS
        # the decimal point is moved in the text, so that what to_json wrote is read back to the last bit
        power = int(matched["power"] or 0) + _POWER[suffix] if matched else 0
        value = float(f"{matched['digits']}e{power}") if matched else math.nan
        positive = matched is not None and float(matched["digits"]) > 0
        if not allowed or not positive or not value < (1 if suffix == "%" else math.inf):
            raise BudgetError(
                f"budget {name}: {str(text)!r} is neither a positive number of {metric(name).unit} "
                f"nor a percentage of the dense network between 0 and 100; write for example 50 or 40%"
            )
        return cls(value, relative=suffix == "%")

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Budget:
    """The limits that a network must meet all together.

    Attributes:
        limits: metric name → limit; empty means that everything is allowed.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Mapping[str, str | float | None]) -> Budget:
        """Read ``{"mflops": "50", "latency_ms": "40%"}``; ``None`` is no limit.

        Raises:
            BudgetError: if a limit is malformed.
            UnknownNameError: if a metric cannot be budgeted.
        """
        costs = [name for name, known in METRICS.items() if known.is_cost]
        for name in texts:
            if name not in costs:
                raise UnknownNameError("metric to budget", name, costs)
        return cls({name: Limit.parse(text, name) for name, text in texts.items() if text is not None})

    def resolve(self, dense: Measurement) -> Budget:
        """Return the same budget in absolute numbers.

        Raises:
            BudgetError: if the dense network meets all limits already, so that there is nothing to do, or a limit is
                on what was not measured.
        """
        resolved = self.in_units(dense)
        if self.limits and not resolved.violations(dense):
            raise BudgetError(
                f"nothing to do: the dense network has {_list_values(self.limits, dense)}, "
                f"within the budget of {resolved.describe()}; ask for less"
            )
        return resolved

    def in_units(self, dense: Measurement) -> Budget:
        """Return the same budget in absolute numbers, also where the dense network meets it.

        Raises:
            BudgetError: if a limit is on what was not measured.
        """
        unknown = [name for name in self.limits if name not in dense.values]
        if unknown:
            known = ", ".join(name for name, one in METRICS.items() if one.is_cost and name in dense.values)
            masks = ". What is not zero is counted where there are masks: add weight or 2:4 to space.patterns"
            raise BudgetError(
                f"the budget limits {', '.join(unknown)}, which this study does not measure; budget one of {known}"
                f"{masks if any(name.startswith('nonzero') for name in unknown) else ''}"
            )
        return Budget(
            {name: Limit(limit.value * dense[name]) if limit.relative else limit for name, limit in self.limits.items()}
        )

    def violations(self, measurement: Measurement) -> dict[str, float]:
        """Return, for every limit that is exceeded, value / limit − 1 (always > 0).

        >>> Budget({"mflops": Limit(50)}).violations(Measurement({"mflops": 60}))
        {'mflops': 0.2}
        """
        over = {name: round(measurement[name] / limit.value - 1, 12) for name, limit in self.limits.items()}
        return {name: excess for name, excess in over.items() if excess > 0}

    def admits(self, measurement: Measurement) -> bool:
        """Return whether every limit is met."""
        if all(measurement.values[name] <= limit.value for name, limit in self.limits.items()):
            return True  # the usual case, at once; what is above by no more than rounding is met too
        return not self.violations(measurement)

    def check_reachable(self, smallest: Measurement) -> None:
        """Raise if even the smallest network of the search space is above a closed-form limit.

        Raises:
            BudgetError: naming the nearest value that can be reached.
        """
        over = list(self.violations_of_known(smallest))
        if over:
            nearest = Measurement({name: METRICS[name].rounded_up(smallest[name]) for name in over})
            raise BudgetError(
                f"the budget of {self.describe(over)} cannot be reached: the smallest network of this search space "
                f"has {_list_values(over, nearest)}; ask for at least that, or raise space.max_sparsity, "
                f"or lower space.round_to"
            )

    def violations_of_known(self, measurement: Measurement) -> dict[str, float]:
        """Return the violations among the limits whose metric the measurement has."""
        return Budget({k: v for k, v in self.limits.items() if k in measurement.values}).violations(measurement)

    def describe(self, names: Iterable[str] | None = None) -> str:
        """Return the limits in words: ``"50 MFLOPs and 2 ms"``."""
        chosen = list(self.limits if names is None else names)
        parts = [
            f"{self.limits[name]} {'of dense ' if self.limits[name].relative else ''}{METRICS[name].unit}"
            for name in chosen
        ]
        return " and ".join(parts) or "no limit"

    def to_json(self) -> dict[str, str]:
        """Return metric → text, as :meth:`parse` reads it, without loss."""
        return {
            name: f"{Decimal(repr(limit.value)).scaleb(2):f}%" if limit.relative else repr(float(limit.value))
            for name, limit in sorted(self.limits.items())
        }


def _list_values(names: Iterable[str], measurement: Measurement) -> str:
    return " and ".join(f"{METRICS[name].show(measurement[name])} {METRICS[name].unit}" for name in names)
