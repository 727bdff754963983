"""What a reader of a study needs to know of it without the network, from a prepared study."""

from __future__ import annotations

from autoprune.core.budget import Budget
from autoprune.core.versions import versions
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.study_facts import DataFacts, FrozenFacts, GroupFacts, SessionFacts, StudyFacts


def study_facts(study: PreparedStudy) -> StudyFacts:
    """Return what is stored about the study as a whole."""
    task = study.task
    return StudyFacts(
        dense=study.dense,
        dense_paired=read_dense_facts(study.folder).paired,
        regularisation=regularisation_facts(study.folder),
        groups={group.name: GroupFacts(group.num_channels, group.is_residual) for group in study.space.groups},
        frozen={group.name: FrozenFacts(group.num_channels, group.reason) for group in study.frozen},
        size_format=study.size_format,
        data=DataFacts(
            task.name, task.needs.num_classes, dict(task.sizes), task.description, task.licence, task.chance
        ),
    )


def session_facts(study: PreparedStudy, budget: Budget) -> SessionFacts:
    """Return what is stored of a run that searches within an absolute budget."""
    spec, host, beside = study.spec, study.timer.host, read_dense_facts(study.folder).fp32_latency_ms
    return SessionFacts(
        budget=budget,
        sampler=spec.sampler,
        trials=spec.trials,
        runtime=study.device.describe(),
        latency={
            **spec.latency.model_dump(),
            **({"host": host.described} if host else {}),
            **({} if beside is None else {"dense_fp32_ms": beside}),
        },
        versions=versions(),
    )
