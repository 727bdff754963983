"""The GPU kernels for 2:4 masks: whether a device has them, and the conversion of a network for them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ModelError
from autoprune.pruning.masks.maskable_layers import Maskable
from autoprune.pruning.masks.weight_masks import Masks

NO_KERNEL = "2:4 masks save no time here: their kernels need a CUDA GPU of compute capability 8.0 or newer, and {}"
SPARSE_DTYPES, SPARSE_MULTIPLE = (torch.float16, torch.bfloat16), 16  # what cuSPARSELt takes, in torch 2.15


def can_accelerate(device: torch.device | str) -> tuple[bool, str]:
    """Return whether 2:4 masks make linear layers faster on a device, and why or why not in one sentence."""
    device = torch.device(device)
    if device.type != "cuda":
        return False, NO_KERNEL.format("this is a CPU" if device.type == "cpu" else f"this is {device.type!r}")
    if not torch.cuda.is_available() or torch.version.hip:
        return False, NO_KERNEL.format("this machine has none")
    capability = torch.cuda.get_device_capability(device)
    name = f"{torch.cuda.get_device_name(device)} (compute capability {capability[0]}.{capability[1]})"
    if capability < (8, 0):
        return False, NO_KERNEL.format(f"this is {name}")
    if not torch.backends.cusparselt.is_available():
        return False, NO_KERNEL.format(f"this PyTorch has none for {name}: it lacks cuSPARSELt")
    return True, f"{name} has 2:4 kernels for linear layers in float16 and bfloat16"


def to_semi_structured(network: nn.Module, masks: Masks) -> Maskable:
    """Store the 2:4 masked weights of linear layers compressed, in place, so that a GPU multiplies half as much.

    For inference only, and for good: the compressed weights can be neither trained nor saved by safetensors. The tests
    run without a GPU and do not reach the compression; it was written after the source of torch 2.15.

    Returns:
        the layers that were converted, and the masked layers that stay as they are, with the reason.

    Raises:
        ModelError: if the network is not on a GPU that has such kernels, or the masks belong to another network.
    """
    able, sentence = can_accelerate(next(network.parameters()).device)
    if not able:
        raise ModelError(sentence)
    masks.apply(network)
    layers, left = [], {}
    for path, stays in masks.tensors.items():
        layer = path.removesuffix(".weight")
        module: Any = network.get_submodule(layer)
        if reason := _why_not_compressed(module, stays):
            left[layer] = reason
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch calls these tensors a prototype
            sparse = torch.sparse.to_sparse_semi_structured(module.weight.detach().contiguous())
        module.weight = nn.Parameter(sparse, requires_grad=False)
        layers.append(layer)
    return Maskable(tuple(layers), left)


def _why_not_compressed(module: Any, stays: Tensor) -> str | None:
    """Return why cuSPARSELt cannot hold a masked weight, or ``None`` if it can."""
    if not isinstance(module, nn.Linear):
        return "the 2:4 kernels are for linear layers"
    if stays.shape[1] % 4 or (stays.reshape(-1, 4).sum(1) > 2).any():
        return "its mask is not 2:4"
    if module.weight.dtype not in SPARSE_DTYPES:
        return f"its weight is {module.weight.dtype}; the 2:4 kernels multiply float16 and bfloat16"
    if any(size % SPARSE_MULTIPLE for size in stays.shape):
        return f"its shape is {tuple(stays.shape)}; the 2:4 kernels need multiples of {SPARSE_MULTIPLE}"
    return None
