"""What was measured of one network: values with their standard errors, by metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.json_values import JsonObject

CONFIDENT = 1.96  # standard errors on each side of a 95 % interval, of a normal distribution


@dataclass(frozen=True)
class Measurement:
    """What was measured of one network.

    Attributes:
        values: metric name → finite value in the metric's unit.
        stderr: metric name → standard error, for the metrics that have one.
        uncounted: what could not be counted, in words; listed rather than hidden.
    """

    values: Mapping[str, float]
    stderr: Mapping[str, float] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if all(map(math.isfinite, self.values.values())) and all(map(math.isfinite, self.stderr.values())):
            return
        for name, value in {**self.values, **{f"stderr of {k}": v for k, v in self.stderr.items()}}.items():
            if not math.isfinite(value):
                raise ValueError(f"measurement {name} is {value}; a measurement holds finite numbers only")

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def error(self, name: str) -> float:
        """Return the standard error of a metric, 0 if it is exact."""
        return self.stderr.get(name, 0.0)

    def merged(self, other: Measurement) -> Measurement:
        """Return both measurements in one; ``other`` wins where both have a value."""
        return Measurement(
            {**self.values, **other.values}, {**self.stderr, **other.stderr}, self.uncounted + other.uncounted
        )

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"values": dict(self.values), "stderr": dict(self.stderr), "uncounted": list(self.uncounted)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Return the measurement that :meth:`to_json` wrote."""
        return cls(dict(data["values"]), dict(data["stderr"]), tuple(data["uncounted"]))
