"""Apply a stored policy to any network that has the groups it names: cut, recalibrate, check, and write a folder.

Sparsity becomes channels of the network at hand, and its own channels are ranked by the policy's criteria, so another
width or other weights are no obstacle; another structure is. Nothing is trained.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.builtin_names import IMPORTANCES
from autoprune.core.counts import ChannelCounts
from autoprune.core.export_formats import ONNX_PACKAGES, Wanted, missing_onnx
from autoprune.core.metrics import FLOP_CONVENTION, Measurement
from autoprune.core.notify import Notify
from autoprune.core.paired_scores import PairedScores, paired_difference
from autoprune.core.policy import PruningPolicy
from autoprune.core.space import Block, MaskSpace, PruningGroup, SearchSpace
from autoprune.cost.cost_model import measure_network
from autoprune.errors import EvaluationError, ModelError
from autoprune.export.convert import timed
from autoprune.export.publish import NetworkBundle, publish
from autoprune.models.weights_licence import weights_licence
from autoprune.pick.apply_target import StoredPolicy, TargetNetwork
from autoprune.pick.card import applied_text
from autoprune.pruning.blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.importance import Calibration, has_mark, score_groups
from autoprune.pruning.masks.masks import build_masks, maskable_layers
from autoprune.pruning.surgery import Pruner
from autoprune.search.evaluation.measure_quality import quality_measurement
from autoprune.search.setup.from_spec import timing_plan
from autoprune.training.finetune import recalibrate_batchnorm
from autoprune.training.scoring import Score, score

_LEAST_MAX_SPARSITY = 0.9


def apply_policy(
    stored: StoredPolicy, subject: TargetNetwork, target: Path, wanted: Wanted, notify: Notify, *, force: bool = False
) -> dict[str, Any]:
    """Prune a network by a stored policy and write it into a folder; return its card.

    Args:
        stored: the policy.
        subject: the network.
        target: the folder.
        wanted: formats that the network is exported to.
        notify: told in a sentence what is going on.
        force: whether a folder that autoprune wrote is replaced.

    Raises:
        UsageError: if the folder exists and may not be replaced.
        ModelError: if the network lacks groups, blocks or layers that the policy names, listing all, or a criterion
            needs data and there is none.
        StudyError: if the folder cannot be written.
        EvaluationError: if a file does not pass its checks.
    """
    notify("finding groups of coupled channels, and proving each by a trial cut")
    found = find_groups(subject.network, subject.example)
    blocks = find_blocks(subject.network, subject.example, found.cuttable)
    groups = {group.name: group for group in found.cuttable}
    frozen = {group.name: group.reason for group in found.frozen}
    notes = _check_fits(stored, groups, frozen, {block.name for block in blocks}, subject.network)
    for note in notes:
        notify(note)
    here = {name: group for name, group in stored.policy.groups.items() if name in groups}  # others stay whole anyway
    stored = replace(stored, policy=replace(stored.policy, groups=here))
    _check_data(stored.policy, subject)
    space = _space(stored.policy, groups, blocks)
    notify(f"scoring channels by {', '.join(_criteria(stored.policy)) or 'nothing: no channel goes'}")
    scores = score_groups(
        subject.network,
        space.groups,
        _criteria(stored.policy),
        Calibration(subject.batches(), subject.spec.seed, subject.architecture.input_shape),
    )
    pruner = Pruner(subject.network, space, scores)
    counts = space.counts(replace(stored.policy, mask=None))
    importances = {name: stored.policy.groups[name].importance for name in space.by_name}
    policy = replace(space.policy(counts, importances), mask=stored.policy.mask)
    cut = pruner.cut(replace(policy, mask=None))
    network = _finished(pruner.prune(replace(policy, mask=None)), policy, subject, notify)
    card = _card(stored, policy, counts, space, network, subject, notes)
    delivery = NetworkBundle(
        network=network,
        dense=subject.network,
        cut=cut,
        architecture=subject.architecture,
        policy=policy,
        channels={name: group.num_channels for name, group in space.by_name.items()},
        examples=subject.examples,
        timing=timing_plan(subject.spec.latency),
        wanted=wanted,
    )
    target = Path(os.path.abspath(target))  # "." has no name
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        card = publish(target, work / "folder", card, delivery, applied_text, notify, force=force)
    except EvaluationError:
        raise  # it names the files, which are left to be looked at
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return card


def _check_fits(
    stored: StoredPolicy,
    groups: Mapping[str, PruningGroup],
    frozen: Mapping[str, str],
    blocks: set[str],
    network: nn.Module,
) -> list[str]:
    """Return what a reader should know of how a policy fits a network, in sentences.

    Raises:
        ModelError: if the network lacks something that the policy names; says all that differs.
    """
    policy = stored.policy
    active = {name for name, group in policy.groups.items() if group.sparsity}
    extra = sorted(set(groups) - set(policy.groups))
    counts = [
        f"{name} ({stored.channels[name]} channels there, {groups[name].num_channels} here)"
        for name in sorted(set(groups) & set(stored.channels))
        if stored.channels[name] != groups[name].num_channels
    ]
    masked = [layer for layer, sparsity in (policy.mask.layers if policy.mask else {}).items() if sparsity]
    able = maskable_layers(network, policy.mask.pattern).layers if policy.mask else ()
    lacking = {
        "groups it lacks": [
            f"{name} (frozen: {frozen[name]})" if name in frozen else name for name in sorted(active - set(groups))
        ],
        "blocks it lacks": sorted(set(policy.dropped_blocks) - blocks),
        "layers that cannot be masked": sorted(set(masked) - set(able)),
    }
    others = [("groups the policy does not name, which stay whole", extra), ("other channel counts", counts)]
    if any(lacking.values()):
        parts = [f"{what}: {', '.join(names)}" for what, names in (*lacking.items(), *others) if names]
        raise ModelError(
            f"the policy does not fit this network. {'. '.join(parts)}. Give a network with the same groups; "
            f"`autoprune inspect` lists those of any network"
        )
    return [f"{what}: {', '.join(names)}" for what, names in others if names]


def _check_data(policy: PruningPolicy, subject: TargetNetwork) -> None:
    """Raise if a criterion looks at data and there is none."""
    hungry = [
        name
        for name in _criteria(policy)
        if has_mark(IMPORTANCES.get(name), "uses_data") or has_mark(IMPORTANCES.get(name), "uses_gradients")
    ]
    if policy.mask is not None and policy.mask.criterion != "magnitude":
        hungry.append(policy.mask.criterion)
    if hungry and subject.task is None:
        raise ModelError(f"the policy ranks by {', '.join(hungry)}, which looks at training data; give --data")


def _criteria(policy: PruningPolicy) -> list[str]:
    return sorted({group.importance for group in policy.groups.values() if group.sparsity})


def _space(policy: PruningPolicy, groups: Mapping[str, PruningGroup], blocks: tuple[Block, ...]) -> SearchSpace:
    """Return the space in which a policy is one of the possible ones."""
    named = {name: group for name, group in groups.items() if name in policy.groups}
    highest = max((group.sparsity for group in policy.groups.values()), default=0.0)
    return SearchSpace(
        tuple(named.values()),
        {name: (policy.groups[name].importance,) for name in named},
        max(_LEAST_MAX_SPARSITY, highest),
        policy.round_to,
        tuple(block for block in blocks if block.name in policy.dropped_blocks),
        MaskSpace(policy.mask.pattern, (policy.mask.criterion,), tuple(policy.mask.layers)) if policy.mask else None,
    )


def _finished(network: nn.Module, policy: PruningPolicy, subject: TargetNetwork, notify: Notify) -> nn.Module:
    """Return a cut network with its masks on, and batch norm recalibrated if there is data."""
    network = subject.runtime.place(network)
    if policy.mask is not None:
        build_masks(network, policy.mask, subject.batches()).apply(network)
    if subject.task is not None:
        notify("recalibrating batch norm")
        images = subject.spec.finetune.recalibration_images
        recalibrate_batchnorm(network, subject.task, images, subject.runtime, subject.spec.seed)
    return network.eval()


def _card(
    stored: StoredPolicy,
    policy: PruningPolicy,
    counts: ChannelCounts,
    space: SearchSpace,
    network: nn.Module,
    subject: TargetNetwork,
    notes: list[str],
) -> dict[str, Any]:
    """Return what was measured, as plain types for JSON."""
    spec, task, runtime = subject.spec, subject.task, subject.runtime
    masked = tuple(policy.mask.layers) if policy.mask else ()
    costs = {
        name: measure_network(one, subject.example, masked)
        for name, one in (("pruned", network), ("dense", subject.network))
    }
    batch = runtime.place_images(torch.zeros(spec.latency.batch, *subject.architecture.input_shape))
    timing = timed(subject.network, network, batch, timing_plan(spec.latency))
    dense_ms = timing["dense_ms"]
    costs["dense"] = costs["dense"].merged(Measurement({"latency_ms": dense_ms}, {"latency_ms": 0.0}))
    latency = Measurement({"latency_ms": timing["pruned_ms"]}, {"latency_ms": timing["ratio_stderr"] * dense_ms})
    costs["pruned"] = costs["pruned"].merged(latency)
    both = {"pruned": network, "dense": subject.network}
    scores = {name: score(one, task, "val", runtime) for name, one in both.items()} if task else {}
    found = {n: cost.merged(quality_measurement(scores[n])) if n in scores else cost for n, cost in costs.items()}
    weights = spec.model.weights
    licence = weights_licence(spec.model.source, weights, "no data", trained_here=False, finetuned=False)
    return {
        "kind": "applied",
        "made_for": {"model": stored.model, "channels": dict(stored.channels)},
        "notes": notes if weights else [*notes, "no weights were given, so the network is as its code built it"],
        "flop_convention": FLOP_CONVENTION,
        "uncounted": list(costs["pruned"].uncounted),
        "validation": found["pruned"].to_json(),
        "dense": {"validation": found["dense"].to_json()},
        "against": {"dense": _differences(scores)},
        "groups": {
            name: {
                "channels": group.num_channels,
                "kept": counts.channels[name],
                "importance": policy.groups[name].importance,
            }
            for name, group in space.by_name.items()
        },
        "policy": json.loads(policy.to_json()),
        "seed": spec.seed,
        "data": {"name": task.name, "sizes": dict(task.sizes), "licence": task.licence} if task else None,
        "weights": {"model": spec.model.source, "weights": weights, "licence": licence},
        "latency": {**spec.latency.model_dump(), "runtime": "torch"},
        "runtime": runtime.describe(),
        "versions": _versions(),
    }


def _differences(scores: Mapping[str, Score]) -> dict[str, dict[str, float]]:
    """Return by how much the pruned network is more accurate on validation than the dense one, paired."""
    packed = [PairedScores.pack(one.correct.tolist()) for one in scores.values() if one.correct is not None]
    if len(packed) < 2:
        return {}
    gain, error = paired_difference(packed[0], packed[1])
    return {"validation": {"accuracy": gain, "stderr": error}}


def _versions() -> dict[str, str]:
    packages = ("autoprune", "torch", "torchvision", "numpy", *(p for p in ONNX_PACKAGES if p not in missing_onnx()))
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
