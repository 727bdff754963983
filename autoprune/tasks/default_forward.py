"""What a network is called with for a batch, by default: a tuple's first part, a dictionary's entries.

Labels are what is left: a tuple's other parts, and the entries of a dictionary that are called so.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from autoprune.errors import DataError
from autoprune.models.calling.inputs import Inputs, words
from autoprune.models.calling.tensors import tensors_in

LABELS = ("label", "labels", "target", "targets", "y")


def default_inputs(network: nn.Module, batch: Any, task: str) -> Inputs:
    """Return what a network is called with.

    Raises:
        DataError: if the batch holds nothing that can be given; names its structure.
    """
    if isinstance(batch, Tensor):
        return Inputs((batch,), {})
    if isinstance(batch, Mapping):
        return Inputs((), _accepted(network, batch, task))
    if isinstance(batch, list | tuple) and batch and tensors_in(batch[0]):
        first = batch[0]
        return Inputs((), _accepted(network, first, task)) if isinstance(first, Mapping) else Inputs.of(first)
    raise DataError(
        f"{task}: a batch is {words(batch)}; expected a tensor, a tuple whose first part the network gets, or a "
        "dictionary with the names of its arguments: give forward=lambda network, batch: … to say how it is called"
    )


def _accepted(network: nn.Module, batch: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the entries that ``forward`` accepts, labels left out."""
    parameters = inspect.signature(network.forward).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    given = {name: value for name, value in batch.items() if name not in LABELS and (takes_any or name in names)}
    if not tensors_in(given):
        raise DataError(
            f"{task}: a batch is {words(batch)}, and the network's forward takes "
            f"{', '.join(sorted(names)) or 'nothing'}; name the entries as its arguments are named, or give "
            "forward=lambda network, batch: …"
        )
    return given


def default_targets(batch: Any) -> list[Tensor]:
    """Return the tensors of a batch that the network does not get."""
    if isinstance(batch, Mapping):
        return tensors_in({name: value for name, value in batch.items() if name in LABELS})
    return tensors_in(list(batch[1:])) if isinstance(batch, list | tuple) else []
