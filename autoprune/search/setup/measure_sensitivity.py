"""Measure, once per study, how much the loss rises when each group, or each block, is cut alone.

Every group is cut to half first and every block dropped; then groups are cut to a quarter, and after that only where
it tells something: to three quarters where half already hurts, to an eighth where a quarter does not. Each network is
recalibrated and scored on the same validation images as the dense one, so that differences are paired and small ones
show. It takes a set share of the time that the search itself is expected to take.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.2, with the recalibration of Li et al.
2020, "EagleEye", section 3.3.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from autoprune.core.atomic_write import write_text
from autoprune.core.notify import Notify
from autoprune.core.sensitivity import Curve, Sensitivity
from autoprune.errors import NonFiniteError
from autoprune.pruning.surgery import Pruner
from autoprune.study.folder import StudyFolder
from autoprune.study.spec_sections import SensitivitySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score

HALF, QUARTER, THREE_QUARTERS, EIGHTH = 0.5, 0.25, 0.75, 0.125
FEWEST_IMAGES = 128
RECALIBRATION_IMAGES = 256
BACKWARD = 3  # a training step costs about as much as this many forward passes
BROKEN = 100.0  # nats; what stands for the rise of a network whose answers are NaN or infinite
_FLAT = 0.02  # a rise that is this share of the dense loss, or less, is none
Level = tuple[str, int]
"""Group or block, and the count that is kept."""


@dataclass(frozen=True)
class Expected:
    """Say how much work the search will be, in images.

    Attributes:
        trials: candidates that will be evaluated.
        trained: images that each is trained on.
        scored: images that each is scored and recalibrated on.
    """

    trials: int
    trained: int
    scored: int

    @property
    def forward_passes(self) -> float:
        """Return the whole work as forward passes of one image."""
        return float(self.trials * (BACKWARD * self.trained + self.scored))


@dataclass(frozen=True)
class SensitivityProbe:
    """Cut, recalibrate and score copies of one network, all on the same images.

    Attributes:
        pruner: cuts by each group's first criterion.
        task: the data.
        runtime: where networks run.
        seed: of the stream that batch norm is recalibrated on.
    """

    pruner: Pruner
    task: DataTask
    runtime: Runtime
    seed: int

    def loss(self, kept: Mapping[str, int], images: int) -> float:
        """Return the validation loss on the first ``images`` of it."""
        space = self.pruner.space
        network = self.runtime.place(self.pruner.prune(space.policy(kept, space.first_importances)))
        recalibrate_batchnorm(network, self.task, min(images, RECALIBRATION_IMAGES), self.runtime, self.seed)
        return score(network, self.task, "val", self.runtime, limit=images).loss


def sensitivity_of(
    probe: SensitivityProbe, wish: SensitivitySpec, expected: Expected, folder: StudyFolder, notify: Notify
) -> Sensitivity:
    """Return the study's curves: stored, or measured now and then stored; none if they are not wanted.

    Args:
        probe: what cuts and scores.
        wish: whether, on how many images, and in which share of the search's time.
        expected: what the search is going to be.
        folder: where the curves are stored.
        notify: told in a sentence what is going on.
    """
    space = probe.pruner.space
    names = space.cut_names
    if not wish.enabled or not names:
        return Sensitivity()
    stored = _read(folder)
    if stored is not None and set(stored.curves) == set(names):
        return stored
    started = time.perf_counter()
    probe.loss({}, FEWEST_IMAGES)  # the first call of all is slow
    before = time.perf_counter()
    probe.loss({}, FEWEST_IMAGES)
    per_image = (time.perf_counter() - before) / (2 * FEWEST_IMAGES)  # recalibrated and scored
    allowed = wish.share * expected.forward_passes * per_image
    affordable = int(allowed / (2 * len(names) * 2 * per_image))  # two levels each, seen twice
    images = min(probe.task.sizes["val"], max(FEWEST_IMAGES, min(wish.images, affordable)))
    notify(f"measuring how sensitive {len(names)} groups and blocks are, on {images} validation images each")
    dense = probe.loss({}, images)
    rises: dict[str, dict[int, float]] = {name: {} for name in names}
    for is_first, (name, count) in _levels(probe, rises, dense):
        if not is_first and time.perf_counter() - started > allowed:
            break
        rises[name][count] = _rise(probe, (name, count), images, dense, notify)
    curves = {name: Curve(space.full[name], rise) for name, rise in rises.items()}
    found = Sensitivity(curves, dense, time.perf_counter() - started, {"images": images, "seed": probe.seed})
    write_text(folder.sensitivity, found.to_json())
    return found


def _rise(probe: SensitivityProbe, level: Level, images: int, dense: float, notify: Notify) -> float:
    name, count = level
    try:
        return probe.loss({name: count}, images) - dense
    except NonFiniteError as error:
        notify(f"{name} cut to {count} breaks the network ({error}); it counts as a rise of {BROKEN:g}")
        return BROKEN


def _levels(
    probe: SensitivityProbe, rises: Mapping[str, Mapping[int, float]], dense: float
) -> Iterator[tuple[bool, Level]]:
    """Yield what to measure next, the most telling first, and whether it belongs to the round that is never left out.

    What was found so far decides what is worth knowing still.
    """
    space = probe.pruner.space

    def level(name: str, share: float) -> Level:
        return name, space.nearest(name, share * space.full[name])

    yield from ((True, (block.name, 0)) for block in space.blocks)
    yield from ((True, level(name, HALF)) for name in space.by_name if len(space.choices[name]) > 1)

    def rise(name: str, share: float) -> float:
        return rises[name].get(level(name, share)[1], 0.0)

    flat = _FLAT * abs(dense)
    halves = [rise(name, HALF) for name in space.by_name]
    rounds: tuple[tuple[float, Callable[[str], bool]], ...] = (
        (QUARTER, lambda name: True),
        (THREE_QUARTERS, lambda name: rise(name, HALF) > flat),
        (EIGHTH, lambda name: rise(name, QUARTER) <= max(flat, statistics.median(halves))),
    )
    for share, is_telling in rounds:
        for name in space.by_name:
            _, count = level(name, share)
            if is_telling(name) and count != space.full[name] and count not in rises[name]:
                yield False, (name, count)


def _read(folder: StudyFolder) -> Sensitivity | None:
    try:
        return Sensitivity.from_json(folder.sensitivity.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or cut short: measure it
        return None
