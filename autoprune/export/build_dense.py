"""The dense network of a stored architecture, built anew by its source."""

from __future__ import annotations

from torch import nn

from autoprune.errors import ModelError
from autoprune.export.architecture import Architecture
from autoprune.models.build import build_for_inputs, build_model
from autoprune.models.calling.inputs import Inputs


def build_dense(architecture: Architecture, seed: int) -> nn.Module:
    """Return the network that an architecture describes, with fresh weights, on the CPU, in training mode.

    Raises:
        UnknownNameError: if its source is not known here.
        ModelError: if it cannot be built.
    """
    if architecture.inputs is None:
        return build_model(
            architecture.source,
            num_classes=architecture.num_classes,
            input_shape=architecture.input_shape,
            seed=seed,
        )
    return build_for_inputs(
        architecture.source, _batch(architecture), architecture.num_classes or None, seed, offers=architecture.offers
    )


def _batch(architecture: Architecture) -> Inputs | None:
    """Return inputs for the network, ``None`` if they hold objects that only the user can make."""
    try:
        return architecture.example(2)
    except ModelError:
        return None
