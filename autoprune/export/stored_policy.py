"""A policy as ``policy.json`` holds it: with the channels and the network that it was made for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.core.policy import PruningPolicy
from autoprune.models.calling.structure import InputStructure

FORMAT = 1


@dataclass(frozen=True)
class StoredPolicy:
    """The content of a ``policy.json``.

    Attributes:
        policy: what to prune.
        channels: group → channels in the network it was made for; empty if that is not known.
        model: that network's source, empty if it is not known.
        num_classes: of that network, 0 if it is not known.
        input_shape: of that network, empty if it is not known, or its inputs are not one tensor.
        inputs: structure of that network's inputs, ``None`` if it is not known, or they are one tensor of real numbers.
        offers: further numbers that its source is given if it accepts them, as ``num_users``.
    """

    policy: PruningPolicy
    channels: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    num_classes: int = 0
    input_shape: tuple[int, ...] = ()
    inputs: InputStructure | None = None
    offers: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        made_for: JsonObject = {
            "model": self.model,
            "num_classes": self.num_classes,
            "input_shape": list(self.input_shape),
        }
        if self.inputs is not None:
            made_for["inputs"] = self.inputs.to_json()
        if self.offers:
            made_for["offers"] = dict(self.offers)
        return {
            "format": FORMAT,
            "policy": json.loads(self.policy.to_json()),
            "channels": dict(self.channels),
            "made_for": made_for,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StoredPolicy:
        """Return what :meth:`to_json` wrote, or the bare JSON of a policy.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: if it is neither.
        """
        if "policy" not in data:
            return cls(PruningPolicy.from_json(data))
        made_for = data["made_for"]
        return cls(
            PruningPolicy.from_json(data["policy"]),
            {str(name): int(count) for name, count in data["channels"].items()},
            str(made_for["model"]),
            int(made_for["num_classes"]),
            tuple(int(size) for size in made_for["input_shape"]),
            InputStructure.from_json(made_for["inputs"]) if "inputs" in made_for else None,
            {str(name): int(number) for name, number in made_for.get("offers", {}).items()},
        )
