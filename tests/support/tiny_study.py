"""The spec of the tiny task, and candidates for its evaluator, without a file of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoprune.core.budget import Budget
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.spec import StudySpec


def tiny_spec(file: Path, **changes: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "tiny",
            "model": {"source": f"{file}:net"},
            "data": {"source": f"{file}:data"},
            "space": {"importances": ("l1", "taylor"), "calibration_images": 48},
            "dense": {"epochs": 3, "batch_size": 32},
            "stopping": {"half_way": "always"},
            "screening": {"enabled": False},
            "finetune": {
                **{"epochs": 1.0, "batch_size": 32, "lr": 0.03},
                **{"recalibration_images": 48, "compensation_images": 0},
            },
            "latency": {"runtime": "torch", "blocks": 5, "calls": 1},
            "runtime": {"device": "cpu", "precision": "fp32", "layout": "contiguous", "threads": 1},
            **changes,
        }
    )


def candidate(study: PreparedStudy, sparsity: float = 0.5, criterion: str = "l1", **budget: float) -> Candidate:
    policy = PruningPolicy.uniform(sparsity, criterion, names=study.space.by_name)
    return Candidate(3, study.space.canonical(policy), 17, "sampler:test", Budget.parse(budget))
