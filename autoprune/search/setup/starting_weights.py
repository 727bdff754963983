"""Where candidates come from: the networks that are scored and begun with, beside the dense one.

Candidates may begin with the trained weights, with those after learning to be sparse, with those of an early epoch, or
with the initial ones. Each is made once per study, stored, and read by every later session.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.errors import ModelError
from autoprune.models.copying.copy_network import copy_network
from autoprune.models.load_weights import load_weights
from autoprune.pruning.groups import Groups
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.dense_network import fresh_network
from autoprune.search.setup.regularised_network import regularised_network
from autoprune.study.folder import StudyFolder
from autoprune.training.recalibrate_batchnorm import recalibrate_batchnorm


@dataclass(frozen=True)
class StartingNetworks:
    """The networks behind a candidate, all of the dense one's shape, in eval mode on the device.

    Attributes:
        scored: whose channels the criteria score.
        start: whose weights candidates begin with.
    """

    scored: nn.Module
    start: nn.Module


def starting_networks(context: StudyContext, network: nn.Module, groups: Groups) -> StartingNetworks:
    """Return whose channels are scored and whose weights candidates begin with; made once per study, then read.

    The trained network is both, after it learnt to be sparse if it is to; candidates that rewind begin with what it
    was early in its training, and for those from scratch the initial network is both.

    Args:
        context: whose spec says where candidates begin.
        network: the dense network, in eval mode and placed.
        groups: of its channels.

    Raises:
        ModelError: if the weights to rewind to are missing, or the source builds another network than the dense one.
    """
    spec, device = context.spec, context.device
    if spec.schedule.start == "scratch":
        initial = _initial_network(context, network)
        return StartingNetworks(initial, initial)
    is_dense = spec.sparsity.method == "none"
    trained = network if is_dense else device.place(regularised_network(context, network, groups)).eval()
    if spec.schedule.start == "rewind":
        return StartingNetworks(trained, device.place(_rewound_network(network, context.folder)).eval())
    return StartingNetworks(trained, trained)


def _initial_network(context: StudyContext, network: nn.Module) -> nn.Module:
    """Return the network as it was before any training, but with batch norm's statistics measured.

    Without them its activations grow from layer to layer, and what criteria see in eval mode says nothing.
    """
    spec, initial = context.spec, fresh_network(context, weights="")
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (network, initial)]
    if shapes[0] != shapes[1]:
        raise ModelError(
            f"{spec.model.source!r} builds another network without weights than with them, so candidates cannot "
            f"begin from scratch; set schedule.start to finetune"
        )
    recalibrate_batchnorm(initial, context.task, spec.finetune.recalibration_images, context.device, spec.seed)
    return initial.eval()


def _rewound_network(network: nn.Module, folder: StudyFolder) -> nn.Module:
    """Return the dense network with the weights that it had early in its training.

    Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, arXiv:1912.05671,
    section 2, and for the idea Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635.
    """
    if not folder.rewind_weights.exists():
        raise ModelError(
            f"there is no {str(folder.rewind_weights)!r}, to which candidates are to rewind; restore it from a copy, "
            f"or begin a new study in another folder, whose dense network is trained anew"
        )
    rewound = copy_network(network)
    load_weights(rewound, folder.rewind_weights)
    return rewound
