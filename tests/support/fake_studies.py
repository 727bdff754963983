"""Studies that never ran: views with made-up trials, for every page of the report."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.paired_scores import PairedScores
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Outcome, Trial
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.study_facts import StudyFacts
from autoprune.study.view import StudyView

BUDGET = Budget.parse({"mflops": 50})
IMAGES = 540


def measurement(accuracy: float, mflops: float, latency_ms: float = 2.0, loss: float = 0.1) -> Measurement:
    """Return what a trial would measure; parameters and size follow from the MFLOPs."""
    stderr = math.sqrt(accuracy * (1 - accuracy) / IMAGES)
    return Measurement(
        {
            "accuracy": accuracy,
            "loss": loss,
            "mflops": mflops,
            "mparams": mflops / 146,
            "latency_ms": latency_ms,
            "size_mb": mflops / 36,
        },
        {"accuracy": stderr, "loss": 0.01, "latency_ms": 0.02},
    )


DENSE = measurement(0.9890, 125.75, 4.10, 0.05)


def answered(right: Sequence[bool], mflops: float = 49.0, loss: float = 0.1) -> Completed:
    """Return the outcome of a network that got these validation images right, and whose hits are stored."""
    accuracy = accuracy_of(right)
    scored = measurement(accuracy, mflops, loss=loss)
    stderr = math.sqrt(accuracy * (1 - accuracy) / len(right))
    return Completed(scored.merged(Measurement({}, {"accuracy": stderr})), PairedScores.pack(right).text)


def accuracy_of(right: Sequence[bool]) -> float:
    """Return the share that is right."""
    return sum(right) / len(right)


def trial(number: int, outcome: Outcome | Measurement, origin: str = "sampler:tpe", budget: Budget = BUDGET) -> Trial:
    """Return a finished trial; a bare measurement completes it."""
    ended = Completed(outcome) if isinstance(outcome, Measurement) else outcome
    candidate = Candidate(number, PruningPolicy.uniform(0.5, "l1", names=["conv1"]), number, origin, budget)
    return Trial(candidate, ended, {"finetune": 10.0, "score": 1.5, "other": 0.5}, 0)


def view_of(folder: Path, trials: Sequence[Trial], budget: Budget = BUDGET, **changes: Any) -> StudyView:
    """Return a view of a study with these trials, whose last run had this budget."""
    facts: Mapping[str, Any] = {
        "dense": DENSE.to_json(),
        "session:0": {"started": "2026-01-01T00:00:00+00:00", "budget": budget.to_json()},
    }
    given = {"spec": StudySpec(), "running": 0, "facts": facts, **changes}
    return StudyView(
        StudyFolder(folder), trials=tuple(trials), **{**given, "facts": StudyFacts.from_json(given["facts"])}
    )


def many_trials(count: int, seed: int = 0) -> list[Trial]:
    """Return three baselines and a cloud of searched trials on and below a plausible front."""
    stream = random.Random(seed)
    baselines = [("uniform", 0.9611, 49.9, 2.9), ("inner", 0.9685, 49.7, 3.1), ("global", 0.9537, 49.2, 2.7)]
    found = [trial(i, measurement(a, f, ms, 0.16), f"baseline:{name}") for i, (name, a, f, ms) in enumerate(baselines)]
    for number in range(len(baselines), count):
        mflops = 50 * stream.uniform(0.35, 1.0)
        accuracy = 0.985 - 0.03 * (50 / mflops - 1) - 0.05 * stream.random() ** 3
        found.append(trial(number, measurement(accuracy, mflops, 0.9 + mflops / 25 * stream.uniform(0.95, 1.2))))
    return found
