"""What evaluates the candidates of a prepared study, and what makes and times networks for it or for a pick."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoprune.pruning.compensation.rows import ROWS_PER_INPUT
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.evaluation.evaluator import Evaluator
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.search.setup.measure_sensitivity import BACKWARD
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.study.spec_training import UNTRAINED_IMAGES
from autoprune.training.distillation import Teacher
from autoprune.training.settings import FinetuneSettings

_FEW_ROWS = 5  # of a regression, for each of its inputs, where a fine-tune follows or many networks are looked at
_MOST_OF_SAVED = 0.1  # of what stopping half-way would save, that the look may cost: hardly one in ten is stopped there


def build_evaluator(study: PreparedStudy) -> Evaluator:
    """Return what evaluates candidates as the spec says."""
    stopping = study.spec.stopping
    look_images = stopping.images if stopping.enabled else 0
    maker = build_maker(study, finetune_settings(study.spec))
    return Evaluator(maker, build_meter(study), look_images, _looks_half_way(study))


def _looks_half_way(study: PreparedStudy) -> bool:
    """Return whether candidates are looked at half-way: as the spec says, or where a look costs little beside a stop.

    A look recalibrates a copy and scores it; a stop saves the other half of the fine-tune.
    """
    spec, sizes = study.spec, study.task.sizes
    if spec.stopping.half_way != "auto":
        return spec.stopping.half_way == "always"
    trained = spec.finetune.epochs * sizes["train"] / spec.schedule.stages
    look = min(spec.finetune.recalibration_images, sizes["train"]) + min(spec.stopping.images, sizes["val"])
    return look <= _MOST_OF_SAVED * BACKWARD * trained / 2


def build_maker(
    study: PreparedStudy, settings: FinetuneSettings, compensation_images: int | None = None
) -> NetworkMaker:
    """Return what makes networks of a study and trains them by the settings.

    Where nothing says how far an output is from a teacher's, there is no distillation, and that is said.

    Args:
        study: prepared.
        settings: of the fine-tune.
        compensation_images: training images by which weights are refitted after a cut; ``None`` for the spec's, of
            which there are more where the settings have no epochs.
    """
    spec, device = study.spec, study.device
    if compensation_images is None:
        tune = spec.finetune
        compensation_images = tune.compensation_images if settings.epochs else tune.untrained_images
    if settings.distill and not _can_be_taught(study, settings):
        study.context.notify(
            f"no distillation: nothing says how far two outputs for {study.task.name} are from each other; the task's "
            "distill=lambda student, teacher, batch: … would"
        )
        settings = replace(settings, distill=False)
    return NetworkMaker(
        pruner=study.pruner,
        cost=study.cost,
        task=study.task,
        runtime=device,
        settings=settings,
        seed=spec.seed,
        recalibration_images=spec.finetune.recalibration_images,
        teacher=_teacher(study) if settings.distill and study.task.finetune is None else None,
        schedule=spec.schedule,
        calibration_images=spec.space.calibration_images,
        start=None if study.start is study.network else study.start,
        compensator=compensator_of(study, compensation_images),
    )


def build_solved_maker(study: PreparedStudy) -> NetworkMaker:
    """Return what makes networks that a pick has solved for, which no last fine-tune follows."""
    return build_maker(study, finetune_settings(study.spec), study.spec.finetune.untrained_images)


def compensator_of(study: PreparedStudy, images: int) -> Compensator | None:
    """Return what refits networks after a cut; ``None`` if they are to begin with other weights than trained ones.

    Args:
        study: prepared.
        images: training images that it looks at; where they are fewer than a pick's, it takes fewer rows of each too.
    """
    start = study.spec.schedule.start
    if images and start != "finetune":
        study.context.notify(
            f"no compensation: with schedule.start = {start} candidates begin with weights as they are"
        )
        images = 0
    if not images:
        return None
    return Compensator(
        study.start,
        study.task,
        study.device,
        images,
        study.spec.seed,
        study.context.notify,
        ROWS_PER_INPUT if images >= UNTRAINED_IMAGES else _FEW_ROWS,
    )


def _can_be_taught(study: PreparedStudy, settings: FinetuneSettings) -> bool:
    """Return whether the task can compare the dense network's output for a batch with another's."""
    task = study.task
    if task.needs.num_classes is not None or task.finetune is not None or not task.has_batches:
        return True
    batch = next(iter(task.eval_batches("train", 2, study.device, limit=2)))
    with torch.no_grad():
        output = study.device.answer(task.forward, study.network, batch)
    return task.distill(output, output, batch, settings.temperature) is not None


def _teacher(study: PreparedStudy) -> Teacher:
    return Teacher(study.network, study.task, study.device, study.folder.teacher)


def build_meter(study: PreparedStudy) -> LatencyMeter:
    """Return what times the networks of a study."""
    return LatencyMeter(study.timer, study.network, study.dense["latency_ms"])
