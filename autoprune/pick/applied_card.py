"""The card of a network that a stored policy was applied to: counted, timed, and scored if there is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import measure_network
from autoprune.export.card import Card
from autoprune.export.card_origin import AppliedPolicy, GroupRow
from autoprune.export.card_parts import WeightsFacts
from autoprune.export.convert import timed
from autoprune.export.examples import timing_inputs
from autoprune.export.stored_policy import StoredPolicy
from autoprune.models.weights_licence import weights_licence
from autoprune.pick.apply_target import TargetNetwork
from autoprune.pick.final_scores import FinalScores
from autoprune.pick.make_card import make_card
from autoprune.search.setup.from_spec import timing_plan
from autoprune.training.scoring import score

_NO_WEIGHTS = "no weights were given, so the network is as its code built it"


def applied_card(
    stored: StoredPolicy,
    policy: PruningPolicy,
    counts: ChannelCounts,
    space: SearchSpace,
    network: nn.Module,
    target: TargetNetwork,
    notes: Sequence[str],
) -> Card:
    """Measure a network that a policy was applied to, and return its card.

    Args:
        stored: the policy as it was read.
        policy: the policy in the channels of this network.
        counts: what stays of each group.
        space: with the groups of the policy.
        network: pruned, on the target's runtime.
        target: the network before.
        notes: of how the two fit, in sentences.
    """
    spec = target.spec
    weights = spec.model.weights
    licence = weights_licence(spec.model.source, weights, "no data", trained_here=False, finetuned=False)
    pruned, dense = _judged(network, target, policy)
    rows = {
        name: GroupRow(group.num_channels, counts.channels[name], policy.groups[name].importance)
        for name, group in space.by_name.items()
    }
    return make_card(
        AppliedPolicy(stored.model, dict(stored.channels), (*notes, *(() if weights else (_NO_WEIGHTS,))), rows),
        policy,
        pruned,
        {"dense": dense},
        seed=spec.seed,
        task=target.task,
        weights=WeightsFacts(spec.model.source, weights, licence),
        timing=replace(timing_plan(spec.latency), runtime="torch", format="fp32"),
        runtime=target.runtime,
        qualities=spec.qualities,
    )


def _judged(network: nn.Module, target: TargetNetwork, policy: PruningPolicy) -> tuple[FinalScores, FinalScores]:
    """Return what is measured of the pruned network and of the dense one."""
    spec = target.spec
    batch = timing_inputs(target.example, spec.latency.batch).map(target.runtime.place_images)
    timing = timed(target.network, network, batch, timing_plan(spec.latency))
    error = timing.ratio_stderr * timing.dense_ms
    masked = tuple(policy.mask.layers) if policy.mask else ()

    def final_scores(one: nn.Module, milliseconds: float, stderr: float) -> FinalScores:
        costs = measure_network(one, target.example, masked)
        measured = costs.merged(Measurement({"latency_ms": milliseconds}, {"latency_ms": stderr}))
        if target.task is None:
            return FinalScores(measured)
        found = score(one, target.task, "val", target.runtime)
        paired = {"validation": found.paired} if found.paired is not None else {}
        return FinalScores(measured.merged(found.measurement), paired=paired)

    return final_scores(network, timing.pruned_ms, error), final_scores(target.network, timing.dense_ms, 0.0)
