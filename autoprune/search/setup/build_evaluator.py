"""What evaluates the candidates of a prepared study, and what makes and times networks for it or for a pick."""

from __future__ import annotations

from autoprune.search.evaluation.evaluator import Evaluator
from autoprune.search.evaluation.latency_meter import LatencyMeter
from autoprune.search.evaluation.make_network import NetworkMaker
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.training.distillation import Teacher
from autoprune.training.settings import FinetuneSettings


def build_evaluator(study: PreparedStudy) -> Evaluator:
    """Return what evaluates candidates as the spec says."""
    stopping = study.spec.stopping
    look_images = stopping.images if stopping.enabled else 0
    return Evaluator(build_maker(study, finetune_settings(study.spec)), build_meter(study), look_images)


def build_maker(study: PreparedStudy, settings: FinetuneSettings) -> NetworkMaker:
    """Return what makes networks of a study and trains them by the settings."""
    spec, device = study.spec, study.device
    return NetworkMaker(
        pruner=study.pruner,
        cost=study.cost,
        task=study.task,
        runtime=device,
        settings=settings,
        seed=spec.seed,
        recalibration_images=spec.finetune.recalibration_images,
        teacher=Teacher(study.network, study.task, device, study.folder.teacher) if settings.distill else None,
        schedule=spec.schedule,
        calibration_images=spec.space.calibration_images,
        start=None if study.start is study.network else study.start,
    )


def build_meter(study: PreparedStudy) -> LatencyMeter:
    """Return what times the networks of a study."""
    return LatencyMeter(study.timer, study.network, study.dense["latency_ms"])
