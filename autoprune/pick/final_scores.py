"""What is measured of a network once its training is over: the only place that scores test, once, at the very end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import PruningPolicy
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.measure_quality import quality_measurement
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.scoring import Score, score, score_train


@dataclass(frozen=True)
class FinalScores:
    """What was measured of one network after all training.

    Attributes:
        validation: costs, and the score on validation.
        test: the score on test; ``None`` if the data has no test split, or the network was not to meet it.
        correct: split → which of its images were right, bool of shape ``(count,)``.
    """

    validation: Measurement
    test: Measurement | None = None
    correct: Mapping[str, Tensor] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "validation": self.validation.to_json(),
            "test": self.test.to_json() if self.test else None,
            "correct": {split: PairedScores.pack(right.tolist()).text for split, right in self.correct.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FinalScores:
        """Return what :meth:`to_json` wrote."""
        return cls(
            Measurement.from_json(data["validation"]),
            Measurement.from_json(data["test"]) if data["test"] else None,
            {split: torch.from_numpy(PairedScores(text).unpack()) for split, text in data["correct"].items()},
        )


def final_scores_of(
    maker: NetworkMaker, meter: LatencyMeter, policy: PruningPolicy, network: nn.Module, found: Score, watch: Stopwatch
) -> FinalScores:
    """Measure a pruned network that has come to the end of its training.

    Args:
        maker: that trained it.
        meter: times it.
        policy: that it was pruned by.
        network: in eval mode.
        found: its score on validation.
        watch: counts the seconds.
    """
    with watch("score"):
        seen = score_train(network, maker.task, maker.runtime)
    with watch("latency"):
        timing = meter.time(network)
    quality = quality_measurement(found).merged(
        Measurement({"train_accuracy": seen.accuracy}, {"train_accuracy": seen.accuracy_stderr})
    )
    return _with_test(maker, network, maker.exact(policy).merged(quality).merged(timing), found, watch)


def dense_final_scores(maker: NetworkMaker, dense: Measurement, watch: Stopwatch) -> FinalScores:
    """Score the dense network again, image by image, so that others can be paired with it.

    Args:
        maker: with the dense network.
        dense: its costs.
        watch: counts the seconds.
    """
    network = maker.pruner.network
    with watch("score"):
        found = score(network, maker.task, "val", maker.runtime)
    return _with_test(maker, network, dense.merged(quality_measurement(found)), found, watch)


def _with_test(
    maker: NetworkMaker, network: nn.Module, validation: Measurement, found: Score, watch: Stopwatch
) -> FinalScores:
    """Score a network on test, after the last decision."""
    scores = {"validation": found}
    if maker.task.sizes["test"]:
        with watch("test"):
            scores["test"] = score(network, maker.task, "test", maker.runtime)
    test = quality_measurement(scores["test"]) if "test" in scores else None
    correct = {split: one.correct for split, one in scores.items() if one.correct is not None}
    return FinalScores(validation, test, correct)
