"""Which trials' weights a study must hold: those that the rule named after every trial since they were told."""

from __future__ import annotations

from pathlib import Path

from autoprune.analysis.weight_retention import retained_trials
from autoprune.study.view import open_view


def kept_along(folder: Path) -> set[int]:
    """Replay a study's trials in the order of their telling; return whose weights nothing removed on the way.

    A trial can come back to a noise-aware front when the one that beat it is beaten, but its weights do not.
    """
    view = open_view(folder)
    kept = set[int]()
    for count, trial in enumerate(view.trials, start=1):
        told = view.trials[:count]
        retained = retained_trials(told, view.spec.objectives, view.budget, view.spec.quality, view.dense)
        kept = (kept | {trial.number}) & retained
    return kept
