"""The one builder of cards, for a trial that was picked and for a policy that was applied."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.analysis.comparison import Scored, compare
from autoprune.core.metrics import Metric
from autoprune.core.policy import PruningPolicy
from autoprune.core.versions import versions
from autoprune.cost.timing_plan import TimingPlan
from autoprune.export.card import Card
from autoprune.export.card_origin import Origin
from autoprune.export.card_parts import CardData, CardScores, ScoreGain, WeightsFacts
from autoprune.pick.final_scores import FinalScores
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


def make_card(
    origin: Origin,
    policy: PruningPolicy,
    pruned: FinalScores,
    others: Mapping[str, FinalScores],
    *,
    seed: int,
    task: DataTask | None,
    weights: WeightsFacts,
    timing: TimingPlan,
    runtime: Runtime,
    qualities: tuple[Metric, ...],
    size_format: str = "fp32",
) -> Card:
    """Return the card of a network whose files are not written yet.

    Args:
        origin: where it comes from.
        policy: that it was pruned by.
        pruned: what was measured of it.
        others: name → what was measured of a network it is compared with; ``dense`` is among them.
        seed: of everything random.
        task: the data, or ``None`` without any.
        weights: where the dense network's weights come from.
        timing: how latencies were timed.
        runtime: where the networks ran.
        qualities: what they are judged by, the leading metric first.
        size_format: the format that sizes are those of.
    """
    return Card(
        origin=origin,
        scores=scores_of(pruned),
        dense=scores_of(others["dense"]),
        against={name: _gains(pruned, other, qualities[0]) for name, other in others.items()},
        policy=policy,
        seed=seed,
        data=CardData(task.name, dict(task.sizes), task.licence) if task else None,
        weights=weights,
        latency=timing,
        runtime=runtime.describe(),
        versions=versions(),
        qualities=qualities,
        size_format=size_format,
    )


def scores_of(final_scores: FinalScores) -> CardScores:
    """Return what a card says of a network's scores and costs."""
    return CardScores(final_scores.validation, final_scores.test)


def _gains(one: FinalScores, other: FinalScores, quality: Metric) -> dict[str, ScoreGain]:
    """Return, for each split, by how much one network is better than the other, paired example by example if known."""
    found = {}
    for split in ("validation", "test"):
        first, second = _scored(one, split), _scored(other, split)
        if first and second and quality.name in first.measurement.values.keys() & second.measurement.values.keys():
            told = compare(first, second, quality)
            found[split] = ScoreGain(told.difference, told.stderr, quality.name, told.paired)
    return found


def _scored(scores: FinalScores, split: str) -> Scored | None:
    """Return what was measured of a network on a split; ``None`` if nothing was."""
    measured = scores.test if split == "test" else scores.validation
    return None if measured is None else Scored("", None, measured, _paired(scores, split))


def _paired(scores: FinalScores, split: str) -> str:
    """Return what a network made of each example of a split, as it is stored; empty if that is not known."""
    return scores.paired[split].text if split in scores.paired else ""
