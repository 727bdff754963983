"""What proposes the candidates of a prepared study; what only this needs is measured here, once per study."""

from __future__ import annotations

from dataclasses import replace

from autoprune.core.budget import Budget
from autoprune.search.proposals.proposer import Proposals
from autoprune.search.setup.latency_probes import latency_probes, needs_probes
from autoprune.search.setup.measure_sensitivity import measured_sensitivity
from autoprune.search.setup.measure_tolerance import tolerated_counts
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.divided_work import DividedWork


def build_proposals(study: PreparedStudy, budget: Budget, work: DividedWork | None = None) -> Proposals:
    """Return what proposes candidates for an absolute budget.

    Args:
        study: in whose folder the measurements are stored. A pick proposes nothing, so it never pays for them.
        budget: absolute limits.
        work: by which other workers take part in what is measured; ``None``: none do.
    """
    context, pruner = study.context, study.pruner
    unmeasured = unmeasured_proposals(study, budget)
    tolerated = tolerated_counts(context, study.start_pruner)
    sensitivity = measured_sensitivity(context, study.start_pruner, work)
    probes = None
    if needs_probes(budget):
        probes = latency_probes(context, pruner, study.cost, study.timer, study.dense["latency_ms"])
    return replace(unmeasured, tolerated=tolerated, sensitivity=sensitivity, probes=probes)


def unmeasured_proposals(study: PreparedStudy, budget: Budget) -> Proposals:
    """Return proposals that know costs and scores, and nothing of what cuts do: enough to check a budget by.

    Args:
        study: prepared.
        budget: absolute limits.
    """
    spec = study.spec
    scores = {
        name: {group: values.numpy().astype("float64") for group, values in by_group.items()}
        for name, by_group in study.pruner.scores.items()
    }
    return Proposals(
        study.space,
        study.cost,
        study.dense,
        budget,
        scores,
        spec.sampler,
        spec.seed,
        work=study.cost if "latency_ms" in spec.objectives else None,
        quality=spec.quality,
        prefer=spec.pick.prefer,
    )
