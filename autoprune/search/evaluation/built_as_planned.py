"""Checks that a pruned network is what its policy says: every cost that was promised holds on the network itself."""

from __future__ import annotations

from torch import nn

from autoprune.core.policy import MaskPolicy
from autoprune.errors import EvaluationError
from autoprune.models.build import count_parameters
from autoprune.pruning.importance import Calibration
from autoprune.pruning.masks.build_masks import build_masks


def check_size(network: nn.Module, mparams: float) -> None:
    """Raise if a network has other parameters than its policy says, in millions.

    Raises:
        EvaluationError: naming both counts.
    """
    built = count_parameters(network) / 1e6
    if built != mparams:
        raise EvaluationError(
            f"the pruned network has {built} M parameters where its policy says {mparams}; "
            f"this is a bug in autoprune, please report it with the network"
        )


def apply_masks(network: nn.Module, mask: MaskPolicy, calibration: Calibration, planned_zeros: int) -> None:
    """Set the masked weights to zero, as many as the policy says.

    Args:
        network: pruned; changed in place.
        mask: which weights go, and how they are ranked.
        calibration: training batches that the ranking looks at; none if it looks at none.
        planned_zeros: how many weights the policy sets to zero.

    Raises:
        EvaluationError: if it were others, since the costs would be wrong.
    """
    masks = build_masks(network, mask, calibration.batches, calibration.loss_of)
    found = sum(masks.zeros().values())
    if found != planned_zeros:
        left = "".join(f"; {layer} stays dense: {reason}" for layer, reason in masks.left_dense.items())
        raise EvaluationError(
            f"a mask by {mask.criterion} sets {found} weights to zero where its policy says {planned_zeros}{left}; "
            f"leave these layers out with space.keep, or mask by 'magnitude'"
        )
    masks.apply(network)
