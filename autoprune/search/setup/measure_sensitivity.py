"""How far the answers move when each group, or each block, is cut alone, measured once per study.

It is their divergence from the dense network's answers, or what else the task's ``distill`` says; where the task says
nothing, the rise of the loss. The layers that read a group are refitted in closed form first, so that what is measured
is what compensation cannot make up for.

Every group is cut to half first and every block dropped; then groups are cut to a quarter, and after that only where
it tells something: to three quarters where half already hurts, to an eighth where a quarter does not. Each network is
recalibrated and compared with the dense one on the same validation examples. It takes a set share of the work that the
search itself is expected to be. Work is counted in forward passes and never timed: on a busy machine the same seed
measures the same.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.2, with the recalibration of Li et al.
2020, "EagleEye", section 3.3.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import nn

from autoprune.core.json_values import JsonObject
from autoprune.core.sensitivity import DIVERGENCE, LOSS, Curve, Sensitivity
from autoprune.core.space import SearchSpace
from autoprune.errors import NonFiniteError
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.compensation.closed_form import DenseMoments, refit_closed_form
from autoprune.pruning.light_copy import copier_of
from autoprune.pruning.surgery import Copier, Pruner, shrink
from autoprune.search.setup.answer_distance import AnswerDistance
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once, unless_damaged
from autoprune.search.setup.stored_moments import moments_of
from autoprune.study.divided_work import DividedWork
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.scoring import score

HALF, QUARTER, THREE_QUARTERS, EIGHTH = 0.5, 0.25, 0.75, 0.125
FEWEST_IMAGES = 64  # rank groups as 359 do, .97, and leave time for twice as many levels as 128; measured
RECALIBRATION_IMAGES = 256
BACKWARD = 3  # a training step costs about as much as this many forward passes
BROKEN = 100.0  # what stands for the rise of a network whose answers are NaN or infinite
LEVELS = "sensitivity"  # the kind of work by which workers share it
_BATCH = 128
_FLAT = 0.02  # a rise that is this share of the dense loss, or less, is none
Level = tuple[str, int]
"""Group or block, and the count that is kept."""


@dataclass(frozen=True)
class Expected:
    """The work that a search will be, in examples.

    Attributes:
        trials: candidates that will be evaluated.
        trained: examples that each is trained on.
        scored: examples that each is scored and recalibrated on.
    """

    trials: int
    trained: int
    scored: int

    @classmethod
    def of(cls, context: StudyContext) -> Expected:
        """Return the work of a study's search."""
        spec, sizes = context.spec, context.task.sizes
        scored = sizes["val"] + spec.finetune.recalibration_images
        return cls(spec.trials, round(spec.finetune.epochs * sizes["train"]), scored)

    @property
    def forward_passes(self) -> float:
        """Return the whole work as forward passes of one image."""
        return float(self.trials * (BACKWARD * self.trained + self.scored))


@dataclass(frozen=True)
class SensitivityProbe:
    """What cuts, refits and compares copies of one network, all on the same examples.

    Attributes:
        context: of the study.
        pruner: cuts by each group's first criterion.
        images: validation examples that are looked at.
        distance: from the dense network's answers; ``None``: the loss is measured.
        moments: by which layers are refitted; ``None``: they are not.
        recalibration_images: training images for batch norm's statistics, at most as many as are looked at.
        copied: copies the network before it is cut.
    """

    context: StudyContext
    pruner: Pruner
    images: int
    distance: AnswerDistance | None = None
    moments: DenseMoments | None = None
    recalibration_images: int = RECALIBRATION_IMAGES
    copied: Copier = copy_network

    @classmethod
    def of(
        cls, context: StudyContext, pruner: Pruner, images: int, recalibration_images: int = RECALIBRATION_IMAGES
    ) -> SensitivityProbe:
        """Return a probe that compares answers where the task can, and refits where the study compensates.

        They are compared with those of the dense network recalibrated like every cut one, so that no cut is no rise.
        """
        bare = cls(
            context,
            pruner,
            images,
            None,
            moments_of(context, pruner.network),
            recalibration_images,
            copier_of(pruner.network),
        )
        distance = AnswerDistance(context, bare._cut({}), images)
        return replace(bare, distance=distance) if distance.can_be_told() else bare

    def loss(self, kept: Mapping[str, int]) -> float:
        """Return the validation loss with some groups cut to the counts that are kept."""
        return score(self._cut(kept), self.context.task, "val", self.context.device, limit=self.images).loss

    def rise(self, kept: Mapping[str, int], dense_loss: float) -> float:
        """Return how far the answers move, or by how much the loss rises.

        Raises:
            NonFiniteError: if the answers are NaN or infinite.
        """
        return self.distance(self._cut(kept)) if self.distance else self.loss(kept) - dense_loss

    def _cut(self, kept: Mapping[str, int]) -> nn.Module:
        context, space = self.context, self.pruner.space
        cut = self.pruner.cut(space.policy(space.of_cut_numbers(kept)))
        network = context.device.place(shrink(self.pruner.network, cut, self.copied))
        if self.moments is not None:
            refit_closed_form(network, self.moments, cut)
        recalibrated = min(self.images, self.recalibration_images)
        batch = min(_BATCH, recalibrated)  # or a whole batch more would be looked at
        recalibrate_batchnorm(network, context.task, recalibrated, context.device, context.spec.seed, batch)
        return network


def measured_sensitivity(context: StudyContext, pruner: Pruner, work: DividedWork | None = None) -> Sensitivity:
    """Return the study's curves: stored, or measured now and then stored; none if they are not wanted.

    Args:
        context: whose spec says whether, on how many images, and in which share of the search's time.
        pruner: cuts the network that candidates begin with, by each group's first criterion.
        work: by which other workers take part; ``None``: none do.
    """
    names = pruner.space.cut_names
    if not context.spec.sensitivity.enabled or not names or not context.task.has_batches:
        return Sensitivity()
    return once(
        context.folder.sensitivity,
        unless_damaged(partial(_stored, set(names))),
        partial(_measured, context, pruner, work or DividedWork()),
        Sensitivity.to_json,
    )


def _stored(names: set[str], path: Path) -> Sensitivity | None:
    """Return the stored curves; ``None`` if they are of other groups."""
    found = Sensitivity.from_json(path.read_text(encoding="utf-8"))
    return found if set(found.curves) == names else None


def sensitivity_probe(context: StudyContext, pruner: Pruner) -> SensitivityProbe:
    """Return what measures the sensitivity of a study, for any of its workers."""
    return SensitivityProbe.of(context, pruner, _images(context, pruner.space))


def _images(context: StudyContext, space: SearchSpace) -> int:
    """Return on how many examples each cut is looked at: as many as its share of the search's work allows."""
    affordable = int(_allowed(context) / (2 * len(space.cut_names) * 2))  # two levels each, seen twice
    wanted = max(FEWEST_IMAGES, min(context.spec.sensitivity.images, affordable))
    return min(context.task.sizes["val"], wanted)


def _allowed(context: StudyContext) -> float:
    """Return the forward passes of one image that the measurement may take."""
    return context.spec.sensitivity.share * Expected.of(context).forward_passes


def measure_level(probe: SensitivityProbe, item: Mapping[str, Any]) -> JsonObject:
    """Return the ``rise`` of one group or block cut to a count, as any worker can measure it.

    Args:
        probe: of the study.
        item: ``name``, ``count`` and the dense network's ``loss``.
    """
    name, count = str(item["name"]), int(item["count"])
    try:
        return {"rise": probe.rise({name: count}, float(item["loss"]))}
    except NonFiniteError as error:
        probe.context.notify(f"{name} cut to {count} breaks the network ({error}); it counts as a rise of {BROKEN:g}")
        return {"rise": BROKEN}


def _measured(context: StudyContext, pruner: Pruner, work: DividedWork) -> Sensitivity:
    space, names, images = pruner.space, pruner.space.cut_names, _images(context, pruner.space)
    started = time.perf_counter()
    context.notify(f"measuring how sensitive {len(names)} groups and blocks are, on {images} validation examples each")
    probe = sensitivity_probe(context, pruner)
    dense = probe.loss({})
    rises: dict[str, dict[int, float]] = {name: {} for name in names}
    affordable = int(_allowed(context) / _passes(images))  # the dense network is one of them
    for number, levels in enumerate(_rounds(space, rises, dense)):
        measured = sum(map(len, rises.values()))
        now = levels[: max(0, affordable - measured)] if number else levels
        items: list[JsonObject] = [{"name": name, "count": count, "loss": dense} for name, count in now]
        found = work.results(LEVELS, items, partial(measure_level, probe))
        for (name, count), result in zip(now, found, strict=True):
            rises[name][count] = float(cast(float, result["rise"]))
    curves = {name: Curve(space.cut_choices[name][-1], rise) for name, rise in rises.items()}
    settings = {
        "images": images,
        "seed": context.spec.seed,
        "measure": DIVERGENCE if probe.distance else LOSS,
        "compensated": probe.moments is not None,
    }
    return Sensitivity(curves, dense, time.perf_counter() - started, settings)


def _passes(images: int) -> int:
    """Return the forward passes of one image that a network's recalibration and score take together."""
    return images + min(images, RECALIBRATION_IMAGES)


def _rounds(space: SearchSpace, rises: Mapping[str, Mapping[int, float]], dense: float) -> Iterator[list[Level]]:
    """Yield what to measure next, round by round, the most telling first; the first round is never left out.

    What was found in earlier rounds decides what is worth knowing still.
    """

    def level(name: str, share: float) -> Level:
        return name, space.nearest(name, share * space.full.channels[name])

    blocks = [(block.name, 0) for block in space.blocks]
    yield blocks + [level(name, HALF) for name in space.by_name if len(space.channel_choices[name]) > 1]

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
        told = [level(name, share) for name in space.by_name if is_telling(name)]
        yield [(name, n) for name, n in told if n != space.full.channels[name] and n not in rises[name]]
