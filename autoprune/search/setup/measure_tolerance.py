"""The classic error-based method: how far each group can be cut alone before the error rises by more than is tolerated.

Measured once per study on training images, stored in its folder, and offered as one more baseline. The error may rise
and fall a little along the way; the search halves its interval as if it rose only, a handful of cuts for each group.

Source: the per-layer sensitivity of Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.2, cut off at a
tolerance as in Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

from autoprune.core.atomic_write import write_text
from autoprune.core.notify import Notify
from autoprune.errors import NonFiniteError
from autoprune.pruning.surgery import Pruner
from autoprune.study.folder import StudyFolder
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score

RECALIBRATION_IMAGES = 128


def tolerated_counts(
    pruner: Pruner,
    task: DataTask,
    runtime: Runtime,
    max_drop: float,
    images: int,
    seed: int,
    folder: StudyFolder,
    notify: Notify,
) -> dict[str, int]:
    """Return group → the fewest channels at which cutting it alone adds no more than ``max_drop`` to the error.

    Args:
        pruner: cuts by each group's first criterion.
        task: the data; only training images are looked at.
        runtime: where networks run.
        max_drop: tolerated rise of the error rate, in (0, 1); 0 for no such baseline, and nothing is measured.
        images: training images that the error is measured on.
        seed: of the stream that batch norm is recalibrated on.
        folder: where the counts are stored.
        notify: told in a sentence what is going on.
    """
    if not max_drop:
        return {}
    settings = {"max_drop": max_drop, "images": images, "groups": sorted(pruner.space.by_name)}
    stored = _read(folder, settings)
    if stored is not None:
        return stored
    notify(f"cutting each of {len(pruner.space.groups)} groups until the error rises by {100 * max_drop:g} points")
    dense = 1 - score(pruner.network, task, "train", runtime, limit=images).accuracy

    def error(name: str, count: int) -> float:
        network = runtime.place(pruner.prune(pruner.space.policy({name: count}, pruner.space.first_importances)))
        recalibrate_batchnorm(network, task, RECALIBRATION_IMAGES, runtime, seed)
        try:
            return 1 - score(network, task, "train", runtime, limit=images).accuracy
        except NonFiniteError as broken:
            notify(f"{name} cut to {count} breaks the network ({broken}); that is not tolerated")
            return math.inf

    counts = {
        name: fewest(pruner.space.choices[name], lambda count, name=name: error(name, count) - dense <= max_drop)  # type: ignore[misc]
        for name in pruner.space.by_name
    }
    write_text(folder.threshold, json.dumps({"settings": settings, "counts": counts}, indent=1))
    return counts


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


def _read(folder: StudyFolder, settings: Mapping[str, object]) -> dict[str, int] | None:
    try:
        stored = json.loads(folder.threshold.read_text(encoding="utf-8"))
        return {str(k): int(v) for k, v in stored["counts"].items()} if stored["settings"] == settings else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or cut short: measure again
        return None
