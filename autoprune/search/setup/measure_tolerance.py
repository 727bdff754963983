"""The classic error-based method: how far each group can be cut alone before the error rises by more than is tolerated.

Measured once per study on training images, stored in its folder, and offered as one more baseline. The error may rise
and fall a little along the way; the search halves its interval as if it rose only, a handful of cuts for each group.

Source: the per-layer sensitivity of Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.2, cut off at a
tolerance as in Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import parse_json
from autoprune.errors import NonFiniteError
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once, unless_damaged
from autoprune.tasks.task import DataTask
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import Score, score

RECALIBRATION_IMAGES = 128


def tolerated_counts(context: StudyContext, pruner: Pruner) -> dict[str, int]:
    """Return group → the fewest channels at which cutting it alone adds no more than ``space.max_drop`` to the error.

    Only training images are looked at, ``space.calibration_images`` of them. With a ``max_drop`` of 0 there is no such
    baseline, and nothing is measured.

    Args:
        context: of the study.
        pruner: cuts by each group's first criterion.
    """
    space = context.spec.space
    if not space.max_drop:
        return {}
    names = sorted(pruner.space.by_name)
    settings = {"max_drop": space.max_drop, "images": space.calibration_images, "groups": names}
    return once(
        context.folder.threshold,
        unless_damaged(partial(_stored, settings)),
        partial(_measured, context, pruner),
        lambda counts: json.dumps({"settings": settings, "counts": counts}, indent=1),
    )


def _measured(context: StudyContext, pruner: Pruner) -> dict[str, int]:
    task, device, images = context.task, context.device, context.spec.space.calibration_images
    space, max_drop = pruner.space, context.spec.space.max_drop
    context.notify(
        f"cutting each of {len(space.groups)} groups until {task.metric.name} is worse by {task.metric.gap(max_drop)}"
    )
    dense = _value(score(pruner.network, task, "train", device, limit=images), task)

    def is_tolerated(name: str, count: int) -> bool:
        network = device.place(pruner.prune(space.policy(ChannelCounts({name: count}))))
        recalibrate_batchnorm(network, task, RECALIBRATION_IMAGES, device, context.spec.seed)
        try:
            found = _value(score(network, task, "train", device, limit=images), task)
        except NonFiniteError as broken:
            context.notify(f"{name} cut to {count} breaks the network ({broken}); that is not tolerated")
            return False
        return task.metric.gain(dense, found) <= max_drop

    return {name: fewest(choices, partial(is_tolerated, name)) for name, choices in space.channel_choices.items()}


def _value(found: Score, task: DataTask) -> float:
    return found.measurement[task.metric.name]


def fewest(choices: tuple[int, ...], is_tolerated: Callable[[int], bool]) -> int:
    """Return the smallest count that is tolerated, by bisection; the largest always is.

    >>> fewest((1, 2, 4, 8, 16), lambda count: count >= 3)
    4
    """
    low, high = 0, len(choices) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_tolerated(choices[middle]) else (middle + 1, high)
    return choices[high]


def _stored(settings: Mapping[str, object], path: Path) -> dict[str, int] | None:
    """Return the stored counts; ``None`` if they were measured by other settings."""
    stored = parse_json(path.read_text(encoding="utf-8"))
    counts = {str(name): int(count) for name, count in stored["counts"].items()}
    return counts if stored["settings"] == settings else None
