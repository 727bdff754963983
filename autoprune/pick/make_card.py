"""The one builder of cards, for a trial that was picked and for a policy that was applied."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.paired_scores import PairedScores, paired_difference
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
    """
    return Card(
        origin=origin,
        scores=scores_of(pruned),
        dense=scores_of(others["dense"]),
        against={name: _gains(pruned, other) for name, other in others.items()},
        policy=policy,
        seed=seed,
        data=CardData(task.name, dict(task.sizes), task.licence) if task else None,
        weights=weights,
        latency=timing,
        runtime=runtime.describe(),
        versions=versions(),
    )


def scores_of(final_scores: FinalScores) -> CardScores:
    """Return what a card says of a network's scores and costs."""
    return CardScores(final_scores.validation, final_scores.test)


def _gains(one: FinalScores, other: FinalScores) -> dict[str, ScoreGain]:
    """Return, for each split, by how much one network is more accurate than the other, paired image by image."""
    packed = {
        split: [PairedScores.pack(each.correct[split].tolist()) for each in (one, other)]
        for split in one.correct
        if split in other.correct
    }
    return {split: ScoreGain(*paired_difference(*pair)) for split, pair in packed.items()}
