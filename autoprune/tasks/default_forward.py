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
        if isinstance(first, Mapping):
            return Inputs((), _accepted(network, first, task))
        if is_zipped(batch):
            return Inputs((list(first),), {})
        return _bound(network, Inputs.of(first), batch, task)
    raise DataError(
        f"{task}: a batch is {words(batch)}; expected a tensor, a tuple whose first part the network gets, or a "
        "dictionary with the names of its arguments: give forward=lambda network, batch: … to say how it is called"
    )


def is_zipped(batch: Any) -> bool:
    """Return whether a batch is ``tuple(zip(*examples))``, whose first part is a tuple of one image for each example.

    Beside it lies a tuple of as many things that only one example has: a dictionary, a number, a label. Elsewhere a
    tuple holds the network's arguments.

    >>> from torch import zeros
    >>> is_zipped(((zeros(3, 4, 4), zeros(3, 5, 5)), ({"boxes": 0}, {"boxes": 0})))
    True
    >>> is_zipped(((zeros(2, 7), zeros(2, 7)), zeros(2)))
    False
    """
    if not isinstance(batch, tuple) or len(batch) < 2 or not all(type(part) is tuple for part in batch):
        return False
    if len({len(part) for part in batch}) != 1 or not all(isinstance(each, Tensor) for each in batch[0]):
        return False
    return any(all(map(_is_of_one, part)) for part in batch[1:])


def _is_of_one(target: Any) -> bool:
    return isinstance(target, Mapping | int | float | str) or (isinstance(target, Tensor) and not target.dim())


def _bound(network: nn.Module, inputs: Inputs, batch: Any, task: str) -> Inputs:
    """Return inputs that a network's ``forward`` takes.

    Raises:
        DataError: if it takes fewer or more arguments than a tuple holds.
    """
    if len(inputs.args) < 2:
        return inputs
    try:
        inspect.signature(network.forward).bind(*inputs.args)
    except TypeError as error:
        raise DataError(
            f"{task}: the first part of a batch is a tuple of {len(inputs.args)}, which are given to the network as "
            f"arguments, and its forward does not take them ({error}); make it a list to give it as one, or give "
            "forward=lambda network, batch: …"
        ) from error
    except ValueError:  # some callables written in C show no signature
        pass
    return inputs


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
