"""Tensors that a network's forward left behind in its attributes, which PyTorch refuses to copy or to train on.

A feature map kept for a heat map carries the history of the pass that made it; one kept under ``inference_mode`` can
never be used in training. A copy gets the plain values of both.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

# what deepcopy hands on as it is, so that nothing behind it is copied
_HANDED_ON = (
    *(type, ModuleType, FunctionType, BuiltinFunctionType, CodeType, FrameType, logging.Logger),
    *(str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, torch.Size),
)


def kept_tensors(network: nn.Module) -> Iterator[Tensor]:
    """Yield every tensor behind a network's attributes that has a history, or was made under ``inference_mode``.

    Buffers that wait for their first input are among them, because PyTorch does not copy those either.
    """
    seen, pending = set[int](), [network]
    while pending:
        found: object = pending.pop()
        if isinstance(found, _HANDED_ON) or id(found) in seen:
            continue
        seen.add(id(found))
        if not isinstance(found, Tensor):
            pending.extend(gc.get_referents(found))
        elif isinstance(found, UninitializedBuffer) or (
            not is_lazy(found) and (not found.is_leaf or found.is_inference())
        ):
            yield found


def plain_values(tensor: Tensor) -> Tensor:
    """Return a tensor's values, without history, in memory of their own; a parameter is one again."""
    if isinstance(tensor, UninitializedBuffer):  # PyTorch copies a lazy parameter, and forgot the lazy buffer
        return cast(Tensor, UninitializedBuffer(device=tensor.device, dtype=tensor.dtype))  # type: ignore[call-arg]
    with torch.inference_mode(False), torch.no_grad():
        plain = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        return nn.Parameter(plain, requires_grad=tensor.requires_grad) if is_parameter else plain
