"""The dense network after it learnt to be sparse: trained once per study, with what it did among the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import StudyError
from autoprune.models.copying.copy_network import copy_network
from autoprune.models.load_weights import load_weights
from autoprune.pruning.criteria.channel_parameters import producing
from autoprune.pruning.groups import Groups
from autoprune.search.evaluation.measure_quality import measured_quality
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.dense_network import check_finite, network_bytes
from autoprune.search.setup.once import once
from autoprune.study.folder import StudyFolder
from autoprune.study.regularisation_facts import RegularisationFacts
from autoprune.training.loop import TrainingRun
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm
from autoprune.training.regularisation import (
    ChannelTensors,
    Penalty,
    channel_strengths,
    describe_regularisation,
    train_regularised,
)
from autoprune.training.settings import FinetuneSettings

_FACTS = "sparsity"  # key of the facts among the file's metadata


class Regularised(NamedTuple):
    """A network that learnt to be sparse, and how that went."""

    network: nn.Module
    facts: RegularisationFacts


def regularised_network(context: StudyContext, network: nn.Module, groups: Groups) -> nn.Module:
    """Return a copy of the dense network that learnt to be sparse: stored in the study, or trained now and then stored.

    Args:
        context: whose spec says by which penalty, how strong and how long.
        network: the dense network, in eval mode and placed.
        groups: those that can be cut are drawn to zero.

    Raises:
        ModelError: if the stored file does not fit, or the weights became NaN or infinite.
    """
    return once(
        context.folder.sparse_weights,
        partial(_stored, network),
        partial(_learnt, context, network, groups),
        lambda made: network_bytes(made.network, {_FACTS: json.dumps(made.facts.to_json())}),
    ).network


def _stored(dense: nn.Module, path: Path) -> Regularised:
    sparse = copy_network(dense)
    load_weights(sparse, path)
    return Regularised(sparse, _facts_in(path))


def _learnt(context: StudyContext, network: nn.Module, groups: Groups) -> Regularised:
    spec, wish, task, device = context.spec, context.spec.sparsity, context.task, context.device
    if wish.method == "none":
        raise ValueError("the spec wants no regularisation; this is a bug in autoprune")
    context.notify(f"learning sparsity by {wish.method} for {wish.epochs:g} epochs, once per study")
    sparse, tensors = copy_network(network), channel_tensors(network, groups.cuttable)
    before = channel_strengths(network, wish.method, tensors)
    settings = FinetuneSettings(wish.epochs, spec.dense.batch_size, wish.lr, spec.dense.weight_decay)
    run = TrainingRun(task, settings, device, spec.seed)
    train_regularised(sparse, run, Penalty(wish.method, wish.strength), tensors)
    sparse.zero_grad(set_to_none=True)
    check_finite(sparse)
    # proximal steps change weights behind the back of batch norm's running statistics
    recalibrate_batchnorm(sparse, task, spec.finetune.recalibration_images, device, spec.seed)
    facts = {
        **{"method": wish.method, "strength": wish.strength, "epochs": wish.epochs},
        "quality_before": measured_quality(network, task, device).to_json(),
        "quality_after": measured_quality(sparse, task, device).to_json(),
        **describe_regularisation(before, channel_strengths(sparse, wish.method, tensors)),
    }
    return Regularised(sparse, RegularisationFacts.from_json(facts))


def regularisation_facts(folder: StudyFolder) -> RegularisationFacts | None:
    """Return what learning to be sparse did; ``None`` if the study has no such network.

    Raises:
        StudyError: if the file is damaged.
    """
    return _facts_in(folder.sparse_weights) if folder.sparse_weights.exists() else None


def _facts_in(path: Path) -> RegularisationFacts:
    try:
        with safe_open(path, "pt") as file:
            return RegularisationFacts.from_json(parse_json(file.metadata()[_FACTS]))
    except (OSError, SafetensorError, *DAMAGE) as error:
        raise StudyError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); restore it from a copy"
        ) from error


def channel_tensors(network: nn.Module, groups: Iterable[PruningGroup]) -> ChannelTensors:
    """Return where the channels of every group are produced, parameter by parameter, norms included.

    A parameter that holds more of one channel of a group than of another is left out.
    """
    paths = {id(parameter): path for path, parameter in network.named_parameters()}
    found: dict[str, list[tuple[str, int, Tensor]]] = {}
    for group in groups:
        seen = set()
        for slices in producing(group, network):
            where = paths[id(slices.parameter)], slices.dim, tuple(slices.positions.tolist())
            counts = torch.bincount(slices.channels, minlength=group.num_channels)
            if int(counts.min()) == int(counts.max()) and where not in seen:
                index = slices.positions.cpu().view(group.num_channels, -1)  # slices come channel by channel
                found.setdefault(group.name, []).append((where[0], slices.dim, index))
            seen.add(where)
    return found
