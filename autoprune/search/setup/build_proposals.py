"""What proposes the candidates of a prepared study; what only this needs is measured here, once per study."""

from __future__ import annotations

from autoprune.core.budget import Budget
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.latency_probes import latency_probes, needs_probes
from autoprune.search.setup.measure_sensitivity import measured_sensitivity
from autoprune.search.setup.measure_tolerance import tolerated_counts
from autoprune.search.setup.prepared_study import PreparedStudy


def build_proposals(study: PreparedStudy, budget: Budget) -> Proposals:
    """Return what proposes candidates for an absolute budget.

    Args:
        study: in whose folder the measurements are stored. A pick proposes nothing, so it never pays for them.
        budget: absolute limits.
    """
    spec, context, pruner = study.spec, study.context, study.pruner
    scores = {
        name: {group: values.numpy().astype("float64") for group, values in by_group.items()}
        for name, by_group in pruner.scores.items()
    }
    tolerated = tolerated_counts(context, study.start_pruner)
    sensitivity = measured_sensitivity(context, study.start_pruner)
    probes = None
    if needs_probes(budget):
        probes = latency_probes(context, pruner, study.cost, study.timer, study.dense["latency_ms"])
    return Proposals(
        study.space,
        study.cost,
        study.dense,
        budget,
        scores,
        spec.sampler,
        spec.seed,
        tolerated=tolerated,
        sensitivity=sensitivity,
        probes=probes,
        work=study.cost if "latency_ms" in spec.objectives else None,
        quality=spec.quality,
    )
