"""A network as a ``.pt2`` file: the program that ``torch.export`` makes, with any number of images in a batch.

It runs without the code that built the network. Its loader unpickles, as PyTorch's own does; who must not unpickle
takes ``model.safetensors`` or ``model.onnx``.
"""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export.own_process import ForeignCodeError, in_own_process
from autoprune.models.copying.copy_network import copy_network

_LONGEST_REASON = 300


def program_bytes(network: nn.Module, example: Tensor) -> bytes:
    """Return a network as the content of a ``.pt2`` file: one input, one output, any number of examples at once.

    Args:
        network: takes one tensor and returns one; not touched.
        example: input of shape ``(N, *input_shape)``; only its shape and type matter.

    Raises:
        ExportError: with the exporter's own reason if the network cannot be followed.
    """
    twin = copy_network(network).cpu().eval()
    two = example[:1].detach().cpu().contiguous().expand(2, *example.shape[1:]).clone()  # of one, N would be taken as 1
    try:
        return in_own_process(lambda: _exported(twin, two), _described)
    except ForeignCodeError as error:
        raise ExportError(
            f"the network cannot be exported as a program: {error}; its other files do without"
        ) from error


def _exported(network: nn.Module, inputs: Tensor) -> bytes:
    """Return the exported program; may raise anything, or crash."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, file)
    return file.getvalue()


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
