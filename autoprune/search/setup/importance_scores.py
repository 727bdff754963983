"""The importance scores of every criterion and group, computed once per study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.pruning.groups import Groups
from autoprune.pruning.importance import has_mark, score_groups
from autoprune.pruning.input_moments import InputMoments
from autoprune.search.evaluation.calibration import calibration_of
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once
from autoprune.search.setup.stored_moments import moments_of

CALIBRATION_BATCH = 64
ScoresByGroup = Mapping[str, Mapping[str, Tensor]]
"""Criterion → group → scores, ``(num_channels,)``, larger = keep."""


def importance_scores(context: StudyContext, network: nn.Module, groups: Groups) -> ScoresByGroup:
    """Return criterion → group → scores: stored in the study, or computed once and then stored.

    Args:
        context: whose spec names the criteria.
        network: whose channels are scored, in eval mode and placed.
        groups: those that can be cut are scored, as far as a criterion applies to them.
    """
    return once(
        context.folder.scores,
        partial(_stored_scores, importances=context.spec.space.importances, groups=groups),
        partial(_computed_scores, context, network, groups),
        _content,
    )


def _stored_scores(path: Path, importances: tuple[str, ...], groups: Groups) -> ScoresByGroup | None:
    """Return the stored scores; ``None`` if they were cut short, or are of other criteria or groups."""
    try:
        flat = load_file(path)
    except (OSError, SafetensorError):
        return None
    scores: dict[str, dict[str, Tensor]] = {}
    for key, values in flat.items():
        name, _, group = key.rpartition("/")
        scores.setdefault(name, {})[group] = values
    channels = {group.name: group.num_channels for group in groups.cuttable}
    fits = all(values.numel() == channels.get(group) for found in scores.values() for group, values in found.items())
    return {name: scores[name] for name in importances} if fits and set(importances) == set(scores) else None


def _computed_scores(context: StudyContext, network: nn.Module, groups: Groups) -> ScoresByGroup:
    spec, task, space = context.spec, context.task, context.spec.space
    context.notify(f"scoring channels by {', '.join(space.importances)}")
    limit = space.calibration_images
    stream = () if not task.has_batches else task.eval_batches("train", CALIBRATION_BATCH, context.device, limit=limit)
    calibration = calibration_of(task, network, stream, spec.seed, _known_moments(context, network))
    return score_groups(network, groups.cuttable, space.importances, calibration)


def _known_moments(context: StudyContext, network: nn.Module) -> Mapping[str, InputMoments]:
    """Return what the closed-form refit needs to know of the network, where a criterion needs it too; or nothing."""
    criteria = map(IMPORTANCES.get, context.spec.space.importances)
    if not context.task.has_batches or not any(has_mark(each, "uses_moments") for each in criteria):
        return {}
    dense = moments_of(context, network)
    return dense.moments if dense else {}


def _content(scores: ScoresByGroup) -> bytes:
    flat = {f"{name}/{group}": values for name, by_group in scores.items() for group, values in by_group.items()}
    return save(flat, metadata={"importances": json.dumps(list(scores))})
