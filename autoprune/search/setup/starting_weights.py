"""Where candidates come from: the networks that are scored and begun with, beside the dense one.

Candidates may begin with the trained weights, with those after sparsity learning, with those of an early epoch, or with
the initial ones. Each is made once per study, stored, and read by every later session.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.notify import Notify
from autoprune.core.space import PruningGroup
from autoprune.errors import ModelError
from autoprune.models.load_weights import load_weights
from autoprune.pruning.criteria.channel_parameters import producing
from autoprune.pruning.groups import Groups
from autoprune.search.evaluation.evaluator import measured_quality
from autoprune.search.setup.dense_network import check_finite, fresh_network, write_network
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
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


@dataclass(frozen=True)
class StartingNetworks:
    """Hold the networks that stand behind a candidate, all of the dense one's shape, in eval mode on the runtime.

    Attributes:
        scored: whose channels the criteria score.
        start: whose weights candidates begin with.
    """

    scored: nn.Module
    start: nn.Module


def starting_networks(
    spec: StudySpec,
    network: nn.Module,
    groups: Groups,
    task: DataTask,
    runtime: Runtime,
    folder: StudyFolder,
    notify: Notify,
) -> StartingNetworks:
    """Return whose channels are scored and whose weights candidates begin with; made once per study, then read.

    The trained network is both, after it learnt sparsity if it shall; candidates that rewind begin with what it was
    early in its training, and for those from scratch the initial network is both.

    Raises:
        ModelError: if the weights to rewind to are missing, or the source builds another network than the dense one.
    """
    if spec.schedule.start == "scratch":
        initial = _initial_network(spec, network, task, runtime)
        return StartingNetworks(initial, initial)
    trained = network
    if spec.sparsity.method != "none":
        trained = runtime.place(_sparse_network(spec, network, groups, task, runtime, folder, notify)).eval()
    if spec.schedule.start == "rewind":
        return StartingNetworks(trained, runtime.place(_rewound_network(network, folder)).eval())
    return StartingNetworks(trained, trained)


def _initial_network(spec: StudySpec, network: nn.Module, task: DataTask, runtime: Runtime) -> nn.Module:
    """Return the network as it was before any training, but with batch norm's statistics measured.

    Without them its activations grow from layer to layer, and what criteria see in eval mode says nothing.
    """
    initial = fresh_network(spec, task, "", lambda note: None)
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (network, initial)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{spec.model.source!r} builds another network without weights than with them, so candidates cannot "
            f"begin from scratch; set schedule.start to finetune"
        )
    recalibrate_batchnorm(initial, task, spec.finetune.recalibration_images, runtime, spec.seed)
    return initial.eval()


def _rewound_network(network: nn.Module, folder: StudyFolder) -> nn.Module:
    """Return the dense network with the weights that it had early in its training.

    Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, arXiv:1912.05671,
    section 2, and for the idea Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635.
    """
    if not folder.rewind_weights.exists():
        raise ModelError(
            f"there is no {str(folder.rewind_weights)!r}, to which candidates shall rewind; restore it from a copy, or "
            f"begin a new study in another folder, whose dense network is trained anew"
        )
    rewound = copy.deepcopy(network)
    load_weights(rewound, folder.rewind_weights)
    return rewound


def _sparse_network(
    spec: StudySpec,
    network: nn.Module,
    groups: Groups,
    task: DataTask,
    runtime: Runtime,
    folder: StudyFolder,
    notify: Notify,
) -> nn.Module:
    """Return a copy of the dense network that learnt sparsity: stored in the study, or trained now and then stored."""
    wish, sparse = spec.sparsity, copy.deepcopy(network)
    if folder.sparse_weights.exists():
        load_weights(sparse, folder.sparse_weights)
        return sparse
    if wish.method == "none":
        return sparse
    notify(f"learning sparsity by {wish.method} for {wish.epochs:g} epochs, once per study")
    tensors = channel_tensors(network, groups.cuttable)
    weak = channel_strengths(network, wish.method, tensors)
    recipe = FinetuneSettings(wish.epochs, spec.dense.batch_size, wish.lr, spec.dense.weight_decay)
    train_regularised(
        sparse, TrainingRun(task, recipe, runtime, spec.seed), Penalty(wish.method, wish.strength), tensors
    )
    sparse.zero_grad(set_to_none=True)
    check_finite(sparse)
    # proximal steps change weights behind the back of batch norm's running statistics
    recalibrate_batchnorm(sparse, task, spec.finetune.recalibration_images, runtime, spec.seed)
    facts = {
        **{"method": wish.method, "strength": wish.strength, "epochs": wish.epochs},
        "quality_before": measured_quality(network, task, runtime).to_json(),
        "quality_after": measured_quality(sparse, task, runtime).to_json(),
        **describe_regularisation(weak, channel_strengths(sparse, wish.method, tensors)),
    }
    write_network(sparse, folder.sparse_weights, {"sparsity": json.dumps(facts)})
    return sparse


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
