"""Finish trials of a stored study: the door from a view of the study to a picked folder with its card."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.analysis.successive_halving import rungs
from autoprune.core.export_formats import ONNX_PACKAGES, Wanted, missing_onnx, wanted_formats
from autoprune.core.metrics import FLOP_CONVENTION, Budget
from autoprune.core.paired_scores import PairedScores, paired_difference
from autoprune.core.policy import MaskPolicy
from autoprune.core.trial import Completed, Trial
from autoprune.core.versions import versions
from autoprune.errors import ModelError, StudyError, UsageError
from autoprune.export.convert import examples_of
from autoprune.export.publish import NetworkBundle, check_target, publish
from autoprune.models.weights_licence import weights_licence
from autoprune.pick.card import card_text
from autoprune.pick.contest import Contender, Finished, Incomparable, Judged, Rival, finish, uniform_rival
from autoprune.pick.resume import unfinished
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.masks.two_of_four_kernels import can_accelerate
from autoprune.search.setup.build_evaluator import build_maker, build_meter
from autoprune.search.setup.from_spec import finetune_settings, resolve, timing_plan
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.search.trial_weights import check_kept, load_trial
from autoprune.study.view import StudyView
from autoprune.training.settings import FinetuneSettings


def finish_trials(
    view: StudyView,
    trials: Sequence[Trial],
    budget: Budget,
    notify: Callable[[str], None],
    *,
    epochs: float | None = None,
    compare: bool | None = None,
    force: bool = False,
    wanted: Wanted | None = None,
) -> tuple[dict[str, Any], Path]:
    """Fine-tune trials longer, keep the best on validation, score it once on test, and write ``picked/<trial>/``.

    If it is cut off, the same call goes on after the last part of the fine-tune that was finished.

    Args:
        view: the study.
        trials: completed trials of it, the most promising first, at least one.
        budget: absolute limits they were picked for, written on the card.
        notify: told in a sentence what is going on.
        epochs: length of the fine-tune; ``None`` for the study's ``pick.epochs``. With 0 the networks are those
            that the search measured, whose weights have to be kept.
        compare: whether the uniform baseline is finished too; ``None`` for the study's ``pick.compare``.
        force: whether a folder from an earlier pick is replaced.
        wanted: formats that the network is exported to; ``None`` for the study's ``pick.export``.

    Returns:
        the card, and the folder.

    Raises:
        UsageError: if a folder of one of the trials exists and ``force`` is false, or the epochs are no length.
        StudyError: if there is no fine-tune, and a trial's weights are not kept.
        AutopruneError: if the network cannot be rebuilt, trained, scored or written, or a file fails its checks. An
            export that fails is told on the card, under ``exports``.
    """
    if epochs is not None and not 0 <= epochs < math.inf:
        raise UsageError(f"the longer fine-tune has {epochs:g} epochs; expected 0 or more")
    for trial in trials:
        _check_not_picked(view.folder.picked / str(trial.number), force)
    as_searched = (view.spec.pick.epochs if epochs is None else epochs) == 0
    for trial in trials if as_searched else ():
        check_kept(view.folder, trial)  # before the data are read
    wanted = wanted_formats(view.spec.pick.export) if wanted is None else wanted  # before an hour of training
    view.folder.create()
    spec = resolve(view.spec)
    study = prepare_study(spec, view.folder, notify)
    settings = finetune_settings(spec, epochs=spec.pick.epochs if epochs is None else epochs, lr=spec.pick.lr)
    maker, meter = build_maker(study, settings), build_meter(study)
    is_compared = spec.pick.compare if compare is None else compare

    def rival_of(winner: Trial) -> Trial | Incomparable:
        rival = uniform_rival(view.trials, budget, winner) if is_compared else Incomparable("not asked for")
        if as_searched and isinstance(rival, Trial):
            try:
                check_kept(view.folder, rival)
            except (StudyError, ModelError) as error:
                return Incomparable(f"the uniform baseline, trial {rival.number}, cannot be loaded: {error}")
        return rival

    def as_measured(trial: Trial) -> nn.Module:
        return study.device.place(load_trial(view.folder.path, trial.number, study.network))

    notify(_plan(trials, settings.epochs))
    with unfinished(view.folder.picked, maker, meter.timer.plan, trials) as memory:
        is_resumed = memory.has_begun
        if is_resumed:
            notify("going on with a pick that was cut off: the parts that it finished are not repeated")
        finished = finish(
            maker,
            meter,
            trials,
            study.dense,
            rival_of,
            lambda trial, phase: notify(f"trial {trial.number}: {phase}"),
            memory,
            as_measured if as_searched else None,
        )
        target = view.folder.picked / str(finished.trial.number)
        card = {**_card(finished, budget), "resumed": is_resumed} | _facts(finished, settings, study)
        delivery = _delivery(finished, study, wanted)
        card = publish(target, memory.building, card, delivery, card_text, notify, force=force)
        memory.forget()
    return card, target


def _check_not_picked(target: Path, force: bool) -> None:
    check_target(
        target,
        force,
        f"test is scored once: load it with autoprune.load({str(target)!r}), or give --force to finish trial "
        f"{target.name} again and replace it if it is picked",
    )


def _delivery(finished: Finished, study: PreparedStudy, wanted: Wanted) -> NetworkBundle:
    return NetworkBundle(
        network=finished.network,
        dense=study.network,
        cut=finished.cut,
        architecture=study.architecture,
        policy=finished.trial.candidate.policy,
        channels={group.name: group.num_channels for group in study.space.groups},
        examples=examples_of(study.task),
        timing=timing_plan(study.spec.latency),
        wanted=wanted,
    )


def _plan(trials: Sequence[Trial], epochs: float) -> str:
    """Say who will be trained, and for how long."""
    names = ", ".join(str(trial.number) for trial in trials)
    if not epochs:
        return f"finishing {'the best of trials' if len(trials) > 1 else 'trial'} {names} as measured in the search"
    if len(trials) == 1:
        return f"finishing trial {names}: fine-tune of {epochs:g} epochs"
    parts = "; ".join(f"{rung.contenders} up to {100 * rung.share:g} %" for rung in rungs(len(trials)))
    return f"finishing the best of trials {names}: fine-tune of {epochs:g} epochs, {parts}, by validation loss"


def _card(finished: Finished, budget: Budget) -> dict[str, Any]:
    """Return what was measured, and of whom, as plain types for JSON."""
    trial, uniform = finished.trial, finished.uniform
    against = {"dense": _differences(finished.pruned, finished.dense)}
    if isinstance(uniform, Rival):
        against["uniform"] = _differences(finished.pruned, uniform.judged)
    return {
        "trial": trial.number,
        "origin": trial.candidate.origin,
        "flop_convention": FLOP_CONVENTION,
        "uncounted": list(finished.pruned.validation.uncounted),
        "budget": budget.to_json(),
        "not_met": budget.violations_of_known(finished.pruned.validation),
        **_scores(finished.pruned),
        "dense": _scores(finished.dense),
        "uniform": {"trial": uniform.trial.number, **_scores(uniform.judged)} if isinstance(uniform, Rival) else None,
        "uniform_missing": uniform.reason if isinstance(uniform, Incomparable) else None,
        "against": against,
        "contenders": [_contender(one, is_picked=one.trial is trial) for one in finished.contenders],
        "in_search": trial.outcome.measurement.to_json() if isinstance(trial.outcome, Completed) else None,
        "policy": json.loads(trial.candidate.policy.to_json()),
        "seconds": dict(finished.seconds),
    }


def _scores(judged: Judged) -> dict[str, Any]:
    return {"validation": judged.validation.to_json(), "test": judged.test.to_json() if judged.test else None}


def _differences(one: Judged, other: Judged) -> dict[str, dict[str, float]]:
    """Return, for each split, by how much one network is more accurate than the other, paired image by image."""
    packed = {
        split: [PairedScores.pack(each.correct[split].tolist()) for each in (one, other)] for split in one.correct
    }
    found = {split: paired_difference(*pair) for split, pair in packed.items()}
    return {split: {"accuracy": gain, "stderr": error} for split, (gain, error) in found.items()}


def _contender(contender: Contender, is_picked: bool) -> dict[str, Any]:
    shares = [share for share, _ in contender.scores]
    return {
        "trial": contender.trial.number,
        "origin": contender.trial.candidate.origin,
        "rungs": [{"share": share, "validation": found.to_json()} for share, found in contender.scores],
        "left_behind": None if is_picked or contender.failure else shares[-1],
        "failure": contender.failure or None,
    }


def _facts(finished: Finished, settings: FinetuneSettings, study: PreparedStudy) -> dict[str, Any]:
    """Return what a reader of the card needs to do it again."""
    spec, learnt = study.spec, regularisation_facts(study.folder)
    return {
        "seed": spec.seed,
        "data": {"name": study.task.name, "sizes": dict(study.task.sizes), "licence": study.task.licence},
        "finetune": {
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "lr": settings.lr,
            "weight_decay": settings.weight_decay,
            "optimizer": settings.optimizer,
            "distill": settings.distill,
            "borders": list(finished.borders),
            "stages": spec.schedule.stages,
            "trainable": spec.schedule.trainable,
            "start": "trial" if settings.epochs == 0 else spec.schedule.start,
        },
        "sparsity": learnt.to_json() if learnt else None,
        "mask": mask_facts(finished.network, finished.trial.candidate.policy.mask, study.device.device),
        "latency": spec.latency.model_dump(),
        "runtime": study.device.describe(),
        "weights": _weights_facts(study),
        "versions": {**versions(), **_export_versions()},
    }


def _weights_facts(study: PreparedStudy) -> dict[str, str]:
    """Return where the dense network's weights come from, and under which licence they stand."""
    spec = study.spec
    data = f"{study.task.name} ({study.task.licence or 'licence unknown'})"
    licence = weights_licence(spec.model.source, spec.model.weights, data, trained_here=bool(spec.dense.epochs))
    return {"model": spec.model.source, "weights": spec.model.weights, "licence": licence}


def _export_versions() -> dict[str, str]:
    """Return the versions of what exports depend on, as far as it is installed."""
    return {name: version(name) for name in ONNX_PACKAGES if name not in missing_onnx()}


def mask_facts(network: nn.Module, mask: MaskPolicy | None, device: str) -> dict[str, Any] | None:
    """Return what a mask left dense, and whether it saves time on a device; ``None`` without a mask."""
    if mask is None:
        return None
    weighted = {path for path, module in network.named_modules() if getattr(module, "weight", None) is not None}
    left = maskable_layers(network, mask.pattern).left
    dense = {layer: reason for layer, reason in left.items() if layer in weighted and "rows hold" in reason}
    kernels = can_accelerate(device)[1] if mask.pattern == "2:4" else "unstructured masks save no time by themselves"
    return {"pattern": mask.pattern, "criterion": mask.criterion, "left_dense": dense, "kernels": kernels}
