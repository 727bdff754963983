"""A network of any inputs and outputs as one that takes a row of tensors and returns one, each of them named.

A file format that knows no dictionaries and no objects is given this instead. A network of one tensor in and one out
needs no such thing and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autoprune.errors import ExportError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.leaf_names import input_names, output_names
from autoprune.models.calling.tensors import tensors_in

INPUT, OUTPUT = "input", "output"
FLAT_PREFIX = "network."
"""What the paths of a network's tensors begin with inside a :class:`FlatNetwork`."""


class FlatNetwork(nn.Module):
    """A network that is called with its input tensors in a row, and returns its output tensors in a row.

    Args:
        network: of any inputs and outputs.
        inputs: give the structure; what is no tensor among them is always the same.
    """

    def __init__(self, network: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.network = network
        self._inputs = inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the output tensors."""
        given = iter(tensors)
        return tuple(tensors_in(self._inputs.map(lambda _: next(given)).run(self.network)))


@dataclass(frozen=True)
class Flattened:
    """A network as a format takes it that knows only tensors.

    Attributes:
        network: takes ``tensors``; the very network that was given where that does already.
        tensors: one batch.
        inputs: a name for each tensor that it takes.
        outputs: a name for each that it returns.
        is_dynamic: whether it may be given any number of examples.
    """

    network: nn.Module
    tensors: tuple[Tensor, ...]
    inputs: list[str]
    outputs: list[str]
    is_dynamic: bool


def flattened(network: nn.Module, inputs: Inputs) -> Flattened:
    """Return a network that takes and returns tensors in a row, with their names.

    Args:
        network: in eval mode, on the CPU; it is run once.
        inputs: one batch for it, as :func:`of_two` returns it.

    Raises:
        ExportError: if it does not run, its inputs are packed sequences, or it returns no tensor.
    """
    refuse_packed(inputs)
    try:
        with torch.no_grad():
            output = inputs.run(network)
    except Exception as error:  # the user's own network may raise anything
        raise ExportError(f"the network does not run on {inputs}: {type(error).__name__}: {error}") from error
    if not tensors_in(output):
        raise ExportError(f"the network returns a {type(output).__name__} without a tensor")
    names = input_names(network, inputs, INPUT)
    alone = names == [INPUT] and len(inputs.args) == 1 and isinstance(output, Tensor)
    return Flattened(
        network if alone else FlatNetwork(network, inputs),
        tuple(inputs.tensors),
        names,
        output_names(output, names, OUTPUT),
        inputs.size is not None,
    )


def refuse_packed(inputs: Inputs) -> None:
    """Raise if there is a packed sequence among inputs.

    Raises:
        ExportError: saying what to give instead.
    """
    if _has_packed((inputs.args, dict(inputs.kwargs))):
        raise ExportError(
            "this format knows no packed sequences, which the network is called with; give it padded ones and their "
            "lengths, and let it pack them itself"
        )


def of_two(inputs: Inputs, network: nn.Module) -> Inputs:
    """Return two examples as exporters take them: on the CPU, contiguous, in the network's precision.

    Of one, their number would be taken for the number 1. Of inputs that are one tensor of
    real numbers only shape and type matter, so they are zeros.
    """
    if inputs.is_plain:
        (tensor,) = inputs.tensors
        return Inputs.of(torch.zeros(2, *tensor.shape[1:], dtype=tensor.dtype))
    return inputs.for_network(network).of_size(2).map(torch.Tensor.contiguous)


def _has_packed(value: object) -> bool:
    if isinstance(value, PackedSequence):
        return True
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_has_packed, inside))
