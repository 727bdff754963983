"""Search, per layer, how much of a trained PyTorch network to prune and by which criterion, under a budget.

The public names, resolved when first used, so that importing the package loads neither torch nor Optuna.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import Study
    from autoprune.core.budget import Budget
    from autoprune.core.measurement import Measurement
    from autoprune.core.metrics import Metric
    from autoprune.core.policy import GroupPolicy, PruningPolicy
    from autoprune.errors import AutopruneError
    from autoprune.export.saved_network import load, load_compressed
    from autoprune.search.session import run_search
    from autoprune.search.setup.without_study import inspect, prune
    from autoprune.search.trial_weights import load_trial
    from autoprune.study.spec import StudySpec
    from autoprune.study.view import StudyView, open_view
    from autoprune.tasks.classify import classification
    from autoprune.tasks.own_task import Task

_PUBLIC = {
    "AutopruneError": "autoprune.errors",
    "Budget": "autoprune.core.budget",
    "GroupPolicy": "autoprune.core.policy",
    "Measurement": "autoprune.core.measurement",
    "Metric": "autoprune.core.metrics",
    "PruningPolicy": "autoprune.core.policy",
    "Study": "autoprune.api",
    "StudySpec": "autoprune.study.spec",
    "StudyView": "autoprune.study.view",
    "Task": "autoprune.tasks.own_task",
    "classification": "autoprune.tasks.classify",
    "inspect": "autoprune.search.setup.without_study",
    "load": "autoprune.export.saved_network",
    "load_compressed": "autoprune.export.saved_network",
    "load_trial": "autoprune.search.trial_weights",
    "open_view": "autoprune.study.view",
    "prune": "autoprune.search.setup.without_study",
    "run_search": "autoprune.search.session",
}

__all__ = [
    "AutopruneError",
    "Budget",
    "GroupPolicy",
    "Measurement",
    "Metric",
    "PruningPolicy",
    "Study",
    "StudySpec",
    "StudyView",
    "Task",
    "classification",
    "inspect",
    "load",
    "load_compressed",
    "load_trial",
    "open_view",
    "prune",
    "run_search",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("autoprune")
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
