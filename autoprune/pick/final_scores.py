"""What is measured of a network once its training is over: the only place that scores test, once, at the very end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Trial, completed_measurement
from autoprune.errors import TimingError
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.evaluation.measure_quality import train_quality
from autoprune.search.evaluation.stopwatch import Stopwatch
from autoprune.training.scoring import Score, score


@dataclass(frozen=True)
class FinalScores:
    """What was measured of one network after all training.

    Attributes:
        validation: costs, and the score on validation.
        test: the score on test; ``None`` if the data has no test split, or the network was not to meet it.
        paired: split → what it made of each of its examples.
    """

    validation: Measurement
    test: Measurement | None = None
    paired: Mapping[str, PairedScores] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "validation": self.validation.to_json(),
            "test": self.test.to_json() if self.test else None,
            "correct": {split: scores.text for split, scores in self.paired.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FinalScores:
        """Return what :meth:`to_json` wrote."""
        return cls(
            Measurement.from_json(data["validation"]),
            Measurement.from_json(data["test"]) if data["test"] else None,
            {split: _sound(text) for split, text in data["correct"].items()},
        )


def _sound(text: str) -> PairedScores:
    """Return stored scores, which can be read.

    Raises:
        ValueError: if they are damaged.
    """
    scores = PairedScores(text)
    scores.unpack()
    return scores


def final_scores_of(
    maker: NetworkMaker, meter: LatencyMeter, trial: Trial, network: nn.Module, found: Score, watch: Stopwatch
) -> FinalScores:
    """Measure a pruned network that has come to the end of its training.

    Args:
        maker: that trained it.
        meter: times it. If it is on another machine that does not answer, the latency that the search measured counts,
            since training changes none, and that is said.
        trial: that it is of.
        network: in eval mode.
        found: its score on validation.
        watch: counts the seconds.
    """
    with watch("score"):
        learnt = train_quality(network, maker.task, maker.runtime)
    with watch("latency"):
        timing = _latency(meter, network, trial)
    quality = found.measurement.merged(learnt)
    exact = maker.exact(trial.candidate.policy)
    return _with_test(maker, network, exact.merged(quality).merged(timing), found, watch)


def _latency(meter: LatencyMeter, network: nn.Module, trial: Trial) -> Measurement:
    """Return the latency of a network, or that of its trial with a word on why.

    Raises:
        TimingError: if another machine does not time it, and never did.
    """
    try:
        return meter.time(network)
    except TimingError as error:
        known = completed_measurement(trial)
        if known is None or "latency_ms" not in known.values:
            raise
        told = f"the latency of the finished network, so that the search's is shown: {error}"
        return Measurement({"latency_ms": known["latency_ms"]}, {"latency_ms": known.error("latency_ms")}, (told,))


def dense_final_scores(maker: NetworkMaker, dense: Measurement, watch: Stopwatch) -> FinalScores:
    """Score the dense network again, example by example, so that others can be paired with it.

    Args:
        maker: with the dense network.
        dense: its costs.
        watch: counts the seconds.
    """
    network = maker.pruner.network
    with watch("score"):
        found = score(network, maker.task, "val", maker.runtime)
    return _with_test(maker, network, dense.merged(found.measurement), found, watch)


def _with_test(
    maker: NetworkMaker, network: nn.Module, validation: Measurement, found: Score, watch: Stopwatch
) -> FinalScores:
    """Score a network on test, after the last decision."""
    scores = {"validation": found}
    if maker.task.sizes["test"]:
        with watch("test"):
            scores["test"] = score(network, maker.task, "test", maker.runtime)
    test = scores["test"].measurement if "test" in scores else None
    paired = {split: one.paired for split, one in scores.items() if one.paired is not None}
    return FinalScores(validation, test, paired)
