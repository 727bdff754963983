"""What a trial's network loses in int8, and how that joins what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement

INT8_GAIN = "int8_gain"
"""Key in measurements: by how much a network is better in int8 than in float32, of accuracy a fraction."""


@dataclass(frozen=True)
class Int8Loss:
    """What quantising a network has cost, every layer of it, on validation.

    Attributes:
        gain: by how much it is better in int8 than in float32 in the metric that leads, example by example; below 0 if
            it is worse, 0 if there is a failure.
        stderr: of the gain.
        examples: how many.
        failure: why there is no gain, in a line; empty if there is one.
    """

    gain: float = 0.0
    stderr: float = 0.0
    examples: int = 0
    failure: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gain) and math.isfinite(self.stderr)):
            raise ValueError(f"the gain in int8 is {self.gain} ± {self.stderr}; expected finite numbers, or a failure")

    @property
    def measurement(self) -> Measurement:
        """Return the gain with its error; nothing if there is a failure.

        >>> Int8Loss(-0.5, 0.25, 8).measurement.values, Int8Loss(failure="it crashed").measurement.values
        ({'int8_gain': -0.5}, {})
        """
        return Measurement({}) if self.failure else Measurement({INT8_GAIN: self.gain}, {INT8_GAIN: self.stderr})

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Int8Loss:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is something else.
        """
        return cls(float(data["gain"]), float(data["stderr"]), int(data["examples"]), str(data["failure"]))
