"""A network as a ``.pt2`` file: the program that ``torch.export`` makes, with any number of examples in a batch.

It is called as the network is, and answers as it does, but that objects of the user's own classes come out as
dictionaries: it runs without the code that built the network. Its loader unpickles, as PyTorch's own does; who must not
unpickle takes ``model.safetensors`` or ``model.onnx``.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export.flat_network import of_two, refuse_packed
from autoprune.export.own_process import ForeignCodeError, in_own_process
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network

_LONGEST_REASON = 300


def program_bytes(network: nn.Module, example: object) -> bytes:
    """Return a network as the content of a ``.pt2`` file, for any number of examples where they can be told apart.

    Args:
        network: of any inputs and outputs; not touched.
        example: one batch, as :meth:`Inputs.of` takes it.

    Raises:
        ExportError: if its inputs are packed sequences, or with the exporter's own reason if it cannot be followed.
    """
    refuse_packed(Inputs.of(example))
    twin = copy_network(network).cpu().eval()
    two = _two(Inputs.of(example), twin)
    try:
        return in_own_process(lambda: _exported(twin, two), _described)
    except ForeignCodeError as error:
        raise ExportError(
            f"the network cannot be exported as a program: {error}; its other files do without"
        ) from error


def _two(inputs: Inputs, network: nn.Module) -> Inputs:
    """Return two examples; of one, N would be taken as 1."""
    if not inputs.is_plain:
        return of_two(inputs, network)
    (tensor,) = inputs.on("cpu").tensors
    return Inputs.of(tensor[:1].contiguous().expand(2, *tensor.shape[1:]).clone())


def _exported(network: nn.Module, inputs: Inputs) -> bytes:
    """Return the exported program; may raise anything, or crash."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if not _is_plain(inputs.run(network)):
            _answer_plainly(network)
        program = torch.export.export(
            network, inputs.args, dict(inputs.kwargs) or None, dynamic_shapes=_dynamic_shapes(network, inputs)
        )
        torch.export.save(program, file)
    return file.getvalue()


def _dynamic_shapes(network: nn.Module, inputs: Inputs) -> Any:
    """Return that the first dimension of every tensor is the number of examples, ``None`` where it is not."""
    if inputs.size is None:
        return None
    batch = torch.export.Dim("batch")
    bound = inspect.signature(network.forward).bind(*inputs.args, **inputs.kwargs).arguments
    return torch.utils._pytree.tree_map(lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, dict(bound))


def _answer_plainly(network: nn.Module) -> None:
    """Let a copy of a network answer without objects that only its own code knows; its arguments keep their names."""
    forward = network.forward

    @wraps(forward)
    def plain(*args: Any, **kwargs: Any) -> Any:
        return _plain(forward(*args, **kwargs))

    network.forward = plain


def _is_plain(output: Any) -> bool:
    """Return whether an output is made of tensors, numbers, tuples, lists and dictionaries alone."""
    if type(output) is dict:
        return all(map(_is_plain, output.values()))
    if type(output) in (tuple, list):
        return all(map(_is_plain, output))
    return output is None or isinstance(output, Tensor | bool | int | float | str)


def _plain(output: Any) -> Any:
    if isinstance(output, Mapping):
        return {str(key): _plain(each) for key, each in output.items()}
    if isinstance(output, tuple | list | set | frozenset):
        return [_plain(each) for each in output] if isinstance(output, list) else tuple(map(_plain, output))
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: _plain(getattr(output, field.name)) for field in fields(output)}
    return output


def load_program(content: bytes) -> nn.Module:
    """Return the network of a ``.pt2`` file, on the CPU; it cannot be put into training mode.

    Raises:
        ExportError: if PyTorch cannot read it.
    """
    try:
        return torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # a damaged file makes the reader raise anything
        raise ExportError(f"PyTorch does not take the program: {_reason(error)}; export it again") from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_LONGEST_REASON]
