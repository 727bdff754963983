"""Applying a stored policy to any network that has the groups it names: cut, compensate, check, and write a folder.

Sparsity becomes channels of the network at hand, and its own channels are ranked by the policy's criteria, so another
width or other weights are no obstacle; another structure is. Nothing is trained.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from torch import nn

from autoprune.core.export_formats import Wanted
from autoprune.core.notify import Notify
from autoprune.core.space import SearchSpace
from autoprune.errors import EvaluationError
from autoprune.export.card import Card
from autoprune.export.publish import NetworkBundle, publish
from autoprune.export.stored_policy import StoredPolicy
from autoprune.pick.applied_card import applied_card
from autoprune.pick.apply_target import TargetNetwork
from autoprune.pick.card_text import card_text
from autoprune.pick.policy_fit import (
    FoundParts,
    check_criteria_are_trusted,
    check_data,
    check_fits,
    find_parts,
)
from autoprune.pruning.cut_plan import CutPlan
from autoprune.pruning.importance import score_groups
from autoprune.pruning.masks.build_masks import build_masks
from autoprune.pruning.surgery import Pruner
from autoprune.search.evaluation.compensator import Compensator
from autoprune.search.setup.from_spec import timing_plan
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm


def apply_policy(
    stored: StoredPolicy,
    target: TargetNetwork,
    folder: Path,
    wanted: Wanted,
    notify: Notify,
    *,
    force: bool = False,
    trust_code: bool = False,
) -> Card:
    """Prune a network by a stored policy and write it into a folder; return its card.

    Args:
        stored: the policy.
        target: the network.
        folder: where it goes.
        wanted: formats that the network is exported to.
        notify: called with a sentence when something begins.
        force: whether a folder that autoprune wrote is replaced.
        trust_code: whether criteria that the policy names by their code, such as ``mine.py:score``, are run.

    Raises:
        UsageError: if the folder exists and may not be replaced.
        UntrustedCodeError: if the policy names code, and that is not allowed.
        ModelError: if the network lacks groups, blocks or layers that the policy names, listing all, or a criterion
            needs data and there is none.
        StudyError: if the folder cannot be written.
        EvaluationError: if a file does not pass its checks.
    """
    check_criteria_are_trusted(stored.policy, trust_code=trust_code)
    notify("finding groups of coupled channels, and proving each by a trial cut")
    parts = find_parts(target.network, target.example)
    stored = replace(stored, policy=stored.policy.on(parts.groups))
    notes = check_fits(stored, parts)
    for note in notes:
        notify(note)
    here = {name: group for name, group in stored.policy.groups.items() if name in parts.groups}  # others stay whole
    stored = replace(stored, policy=replace(stored.policy, groups=here))
    check_data(stored.policy, target.task is not None)
    card, bundle = _pruned(stored, parts, target, notes, wanted, notify)
    return _written(Path(os.path.abspath(folder)), card, bundle, notify, force)  # "." has no name


def _pruned(
    stored: StoredPolicy, parts: FoundParts, target: TargetNetwork, notes: list[str], wanted: Wanted, notify: Notify
) -> tuple[Card, NetworkBundle]:
    """Return the card of the pruned network, and what its folder is made from."""
    space, criteria = SearchSpace.of_policy(stored.policy, parts.groups, parts.blocks), stored.policy.criteria
    notify(f"scoring channels by {', '.join(criteria) or 'nothing: no channel goes'}")
    calibration = target.calibration()
    pruner = Pruner(target.network, space, score_groups(target.network, space.groups, criteria, calibration))
    counts = space.counts(replace(stored.policy, mask=None))
    importances = {name: stored.policy.groups[name].importance for name in space.by_name}
    policy = replace(space.policy(counts, importances), mask=stored.policy.mask)
    network = pruner.prune(replace(policy, mask=None))
    network = target.runtime.place(network)
    is_compensated = _compensated(network, pruner.cut(replace(policy, mask=None)), target, notify)
    if policy.mask is not None:
        build_masks(network, policy.mask, calibration.batches, calibration.loss_of).apply(network)
    if policy.mask is not None or not is_compensated:
        _recalibrate(network, target, notify)
    network.eval()
    bundle = NetworkBundle(
        network=network,
        dense=target.network,
        cut=pruner.cut(replace(policy, mask=None)),
        architecture=target.architecture,
        policy=policy,
        channels={name: group.num_channels for name, group in space.by_name.items()},
        examples=target.examples,
        timing=timing_plan(target.spec.latency),
        wanted=wanted,
    )
    return applied_card(stored, policy, counts, space, network, target, notes), bundle


def _compensated(network: nn.Module, cut: CutPlan, target: TargetNetwork, notify: Notify) -> bool:
    """Refit a cut network in place if there is data, and return whether it was."""
    images = target.spec.finetune.untrained_images
    if target.task is None or not images:
        return False
    notify(f"compensating: refitting what stays on {images} training examples")
    compensator = Compensator(target.network, target.task, target.runtime, images, target.spec.seed, notify)
    return compensator(network, cut)


def _recalibrate(network: nn.Module, target: TargetNetwork, notify: Notify) -> None:
    """Recalibrate batch norm of a cut network in place if there is data."""
    if target.task is not None:
        notify("recalibrating batch norm")
        images = target.spec.finetune.recalibration_images
        recalibrate_batchnorm(network, target.task, images, target.runtime, target.spec.seed)


def _written(folder: Path, card: Card, bundle: NetworkBundle, notify: Notify, force: bool) -> Card:
    """Write the folder by way of a hidden one beside it."""
    work = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        card = publish(folder, work / "folder", card, bundle, card_text, notify, force=force)
    except EvaluationError:
        raise  # it names the files, which are left to be looked at
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return card
