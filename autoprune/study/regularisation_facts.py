"""What learning to be sparse did to the dense network, as it is stored beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement


@dataclass(frozen=True)
class RegularisationFacts:
    """The course of a network's regularisation.

    Attributes:
        method: ``bn_l1`` or ``group_lasso``.
        strength: λ of the penalty.
        epochs: how long.
        quality_before: accuracy and loss of the dense network.
        quality_after: the same of the network that learnt.
        channels: how many channels were penalised.
        quantiles: levels in [0, 1] at which ``before`` and ``after`` are given.
        before: quantiles of the channels' strengths in the dense network.
        after: the same in the network that learnt.
        near_zero: share of channels now below a hundredth of the median before, in [0, 1].
    """

    method: str
    strength: float
    epochs: float
    quality_before: Measurement
    quality_after: Measurement
    channels: int
    quantiles: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    near_zero: float

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "method": self.method,
            "strength": self.strength,
            "epochs": self.epochs,
            "quality_before": self.quality_before.to_json(),
            "quality_after": self.quality_after.to_json(),
            "channels": self.channels,
            "quantiles": list(self.quantiles),
            "before": list(self.before),
            "after": list(self.after),
            "near_zero": self.near_zero,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RegularisationFacts:
        """Return what :meth:`to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: if it is something else.
        """
        return cls(
            method=str(stored["method"]),
            strength=float(stored["strength"]),
            epochs=float(stored["epochs"]),
            quality_before=Measurement.from_json(stored["quality_before"]),
            quality_after=Measurement.from_json(stored["quality_after"]),
            channels=int(stored["channels"]),
            quantiles=tuple(map(float, stored["quantiles"])),
            before=tuple(map(float, stored["before"])),
            after=tuple(map(float, stored["after"])),
            near_zero=float(stored["near_zero"]),
        )
