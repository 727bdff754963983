"""Studies that are judged by something else than accuracy: views and stored ones, written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stored_fakes import store

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import Metric, register
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.study_facts import StudyFacts
from autoprune.study.view import StudyView

BUDGET = Budget.parse({"mflops": 50})
RMSE, MIOU, PERPLEXITY = Metric("rmse", "mm"), Metric("miou"), Metric("perplexity")
JUDGED = {one.name: one for one in (RMSE, MIOU, PERPLEXITY)}


def judged(
    metric: Metric, value: float, mflops: float, error: float | None = None, loss: float = 0.1, **more: float
) -> Measurement:
    """Return what a trial would measure; ``more`` are further qualities."""
    values = {metric.name: value, "loss": loss, "mflops": mflops, "latency_ms": mflops / 25, **more}
    return Measurement(values, {} if error is None else {metric.name: error})


def resampled(value: float, spread: float, shift: float = 0.0, seed: int = 0) -> str:
    """Return a metric that is no mean, with values over resampled examples that err together with others'."""
    stream = np.random.default_rng(seed)
    together, alone = stream.normal(0, spread, 200), np.random.default_rng(seed + 1).normal(0, spread / 10, 200)
    return PairedScores.resampled(value, value + together + shift * alone, 400).text


def judged_trial(number: int, outcome: Completed | Measurement, origin: str = "sampler:tpe") -> Trial:
    """Return a finished trial, made for the budget of all studies here."""
    ended = Completed(outcome) if isinstance(outcome, Measurement) else outcome
    policy = PruningPolicy.uniform(0.1 * (number % 9), "l1", names=["conv1"])
    return Trial(Candidate(number, policy, number, origin, BUDGET), ended, {"finetune": 10.0}, 0)


def judged_view(
    folder: Path, trials: Sequence[Trial], dense: Measurement, *metrics: Metric, paired: str = "", **facts: Any
) -> StudyView:
    """Return a view of a study that is judged by these metrics, the first of which leads."""
    register(metrics)
    spec = StudySpec(metrics=tuple(one.text for one in metrics), objectives=(metrics[0].name, "mflops"))
    known: Mapping[str, Any] = {
        "dense": dense.to_json(),
        "dense_correct": paired,
        "session:0": {"started": "2026-01-01T00:00:00+00:00", "budget": BUDGET.to_json()},
        **facts,
    }
    return StudyView(StudyFolder(folder), spec, tuple(trials), 0, StudyFacts.from_json(known))


def store_judged(
    path: Path, outcomes: Sequence[Completed], dense: Measurement, *metrics: Metric, **facts: Any
) -> StudyFolder:
    """Write a study that is judged by these metrics; return its folder."""
    register(metrics)
    known = {"dense": dense.to_json(), "session:0": {"budget": BUDGET.to_json(), "trials": len(outcomes)}, **facts}
    return store(
        path,
        outcomes,
        wanted=len(outcomes),
        facts=known,
        metrics=tuple(one.text for one in metrics),
        objectives=(metrics[0].name, "mflops"),
    )
