"""The card of a pruned network: what it costs, what it is worth, how it came to be, and what was checked.

``card.json`` holds it. Cards of picked networks and of networks that a stored policy was applied to share most of it;
what only one of them says is its :data:`Origin`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.core.metrics import ACCURACY, FLOP_CONVENTION, Metric
from autoprune.core.policy import PruningPolicy
from autoprune.cost.timing_plan import TimingPlan
from autoprune.export.card_origin import AppliedPolicy, Origin, PickedTrial
from autoprune.export.card_parts import CardData, CardScores, FolderFacts, ScoreGain, WeightsFacts

Gains = Mapping[str, ScoreGain]
"""Split → by how much the pruned network is better on it than another one."""


@dataclass(frozen=True)
class Card:
    """What is known of one pruned network.

    Attributes:
        origin: where it comes from: a trial that was picked, or a policy that was applied.
        scores: of the pruned network, with its costs under ``validation``.
        dense: of the network before pruning.
        against: name of another network → the gains over it.
        policy: that it was pruned by.
        seed: of everything random.
        data: that it was trained and scored on; ``None`` without any.
        weights: where the dense network's weights come from.
        latency: how it was timed.
        runtime: device, precision, layout, threads and versions, as :meth:`Runtime.describe` gives them.
        versions: package → version.
        folder: what lies beside the card; ``None`` until it is written.
        flop_convention: what one FLOP is.
        qualities: what the networks are judged by, the leading metric first; accuracy if the file does not say.
        size_format: the format that ``size_mb`` is that of, ``fp32`` or ``int8``.
    """

    origin: Origin
    scores: CardScores
    dense: CardScores
    against: Mapping[str, Gains]
    policy: PruningPolicy
    seed: int
    data: CardData | None
    weights: WeightsFacts
    latency: TimingPlan
    runtime: Mapping[str, str | int]
    versions: Mapping[str, str]
    folder: FolderFacts | None = None
    flop_convention: str = FLOP_CONVENTION
    qualities: tuple[Metric, ...] = (ACCURACY,)
    size_format: str = "fp32"

    @property
    def written(self) -> FolderFacts:
        """Return what lies beside the card.

        Raises:
            ValueError: if nothing is written yet.
        """
        if self.folder is None:
            raise ValueError("the card was asked for its folder before that is written; publish the network first")
        return self.folder

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Return what the costs leave out, in words."""
        return self.scores.validation.uncounted

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; :meth:`from_json` gives the card back unchanged."""
        meets_test = not isinstance(self.origin, AppliedPolicy)
        return {
            **self.origin.to_json(),
            "flop_convention": self.flop_convention,
            **({} if self.qualities == (ACCURACY,) else {"metrics": [one.text for one in self.qualities]}),
            **({} if self.size_format == "fp32" else {"size_format": self.size_format}),
            "uncounted": list(self.uncounted),
            **self.scores.to_json(meets_test),
            "dense": self.dense.to_json(meets_test),
            "against": {
                name: {split: gain.to_json() for split, gain in gains.items()} for name, gains in self.against.items()
            },
            "policy": json.loads(self.policy.to_json()),
            "seed": self.seed,
            "data": self.data.to_json() if self.data else None,
            "latency": self.latency.to_json(),
            "runtime": dict(self.runtime),
            "weights": self.weights.to_json(),
            "versions": dict(self.versions),
            **(self.folder.to_json() if self.folder else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """Return the card that :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        is_applied = data.get("kind") == "applied"
        return cls(
            origin=AppliedPolicy.from_json(data) if is_applied else PickedTrial.from_json(data),
            scores=CardScores.from_json(data),
            dense=CardScores.from_json(data["dense"]),
            against={
                name: {split: ScoreGain.from_json(gain) for split, gain in gains.items()}
                for name, gains in data["against"].items()
            },
            policy=PruningPolicy.from_json(data["policy"]),
            seed=data["seed"],
            data=CardData(**data["data"]) if data["data"] else None,
            weights=WeightsFacts(**data["weights"]),
            latency=TimingPlan(**data["latency"]),
            runtime=data["runtime"],
            versions=data["versions"],
            folder=FolderFacts.from_json(data) if "files" in data else None,
            flop_convention=data["flop_convention"],
            qualities=tuple(map(Metric.parse, data.get("metrics", ()))) or (ACCURACY,),
            size_format=str(data.get("size_format", "fp32")),
        )
