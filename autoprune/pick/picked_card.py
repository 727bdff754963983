"""The card of a trial that was picked from a study."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from autoprune.core.budget import Budget
from autoprune.core.policy import MaskPolicy
from autoprune.core.trial import Completed
from autoprune.export.card import Card
from autoprune.export.card_origin import ContenderRow, FinetuneFacts, MaskFacts, PickedTrial, RungRow, UniformRow
from autoprune.export.card_parts import WeightsFacts
from autoprune.models.weights_licence import weights_licence
from autoprune.pick.contest import Contender, Finished
from autoprune.pick.make_card import make_card, scores_of
from autoprune.pick.uniform_rival import Incomparable, Rival
from autoprune.pruning.masks.maskable_layers import maskable_layers
from autoprune.pruning.masks.two_of_four_kernels import can_accelerate
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.setup.regularised_network import regularisation_facts
from autoprune.training.settings import FinetuneSettings


def picked_card(
    finished: Finished,
    budget: Budget,
    settings: FinetuneSettings,
    study: PreparedStudy,
    *,
    resumed: bool,
    prefer: str,
) -> Card:
    """Return the card of a finished network.

    Args:
        finished: what came of the contest.
        budget: absolute limits that it was picked for.
        settings: of the fine-tune.
        study: that the trial is of.
        resumed: whether an earlier pick was gone on with.
        prefer: what its trials were preferred by.
    """
    rival = finished.uniform.final_scores if isinstance(finished.uniform, Rival) else None
    others = {"dense": finished.dense, **({"uniform": rival} if rival else {})}
    return make_card(
        replace(_origin(finished, budget, settings, study, resumed), prefer=prefer),
        finished.trial.candidate.policy,
        finished.pruned,
        others,
        seed=study.spec.seed,
        task=study.task,
        weights=_weights(study),
        timing=study.timer.plan,
        runtime=study.device,
        qualities=study.spec.qualities,
        size_format=study.size_format,
    )


def _origin(
    finished: Finished, budget: Budget, settings: FinetuneSettings, study: PreparedStudy, resumed: bool
) -> PickedTrial:
    trial, uniform, learnt = finished.trial, finished.uniform, regularisation_facts(study.folder)
    return PickedTrial(
        trial=trial.number,
        proposed_by=trial.candidate.origin,
        budget=budget,
        not_met=budget.violations_of_known(finished.pruned.validation),
        uniform=UniformRow(uniform.trial.number, scores_of(uniform.final_scores))
        if isinstance(uniform, Rival)
        else None,
        uniform_missing=uniform.reason if isinstance(uniform, Incomparable) else None,
        contenders=tuple(_row(one, is_picked=one.trial is trial) for one in finished.contenders),
        in_search=trial.outcome.measurement if isinstance(trial.outcome, Completed) else None,
        seconds=dict(finished.seconds),
        resumed=resumed,
        finetune=_finetune(finished, settings, study),
        regularisation=learnt.to_json() if learnt else None,
        mask=mask_facts(finished.network, trial.candidate.policy.mask, study.device.device),
    )


def _row(contender: Contender, is_picked: bool) -> ContenderRow:
    last = contender.scores[-1][0] if contender.scores else None
    return ContenderRow(
        contender.trial.number,
        contender.trial.candidate.origin,
        tuple(RungRow(share, found) for share, found in contender.scores),
        left_behind=None if is_picked or contender.failure else last,
        failure=contender.failure or None,
    )


def _finetune(finished: Finished, settings: FinetuneSettings, study: PreparedStudy) -> FinetuneFacts:
    schedule = study.spec.schedule
    return FinetuneFacts(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        optimizer=settings.optimizer,
        distill=settings.distill,
        borders=finished.borders,
        stages=schedule.stages,
        trainable=schedule.trainable,
        start="trial" if settings.epochs == 0 else schedule.start,
    )


def _weights(study: PreparedStudy) -> WeightsFacts:
    """Return where the dense network's weights come from, and under which licence they stand."""
    spec = study.spec
    data = f"{study.task.name} ({study.task.licence or 'licence unknown'})"
    licence = weights_licence(spec.model.source, spec.model.weights, data, trained_here=bool(spec.dense.epochs))
    return WeightsFacts(spec.model.source, spec.model.weights, licence)


def mask_facts(network: nn.Module, mask: MaskPolicy | None, device: str) -> MaskFacts | None:
    """Return what a mask left dense, and whether it saves time on a device; ``None`` without a mask."""
    if mask is None:
        return None
    weighted = {path for path, module in network.named_modules() if getattr(module, "weight", None) is not None}
    left = maskable_layers(network, mask.pattern).left
    dense = {layer: reason for layer, reason in left.items() if layer in weighted and "rows hold" in reason}
    kernels = can_accelerate(device)[1] if mask.pattern == "2:4" else "unstructured masks save no time by themselves"
    return MaskFacts(mask.pattern, mask.criterion, dense, kernels)
