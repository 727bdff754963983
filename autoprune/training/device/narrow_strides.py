"""Strided 1×1 convolutions of few channels, kept from a kernel of oneDNN that corrupts memory.

On CPUs without AVX-512, in float32 and channels last, oneDNN's gradient of the weights of a 1×1 convolution with a
stride and fewer than eight input channels is wrong, and it writes past its workspace: the process dies, hangs, or
trains on wrong gradients. Such are the shortcuts of a ResNet whose first stage was pruned. Contiguous tensors take
another kernel, which is right.

Source: https://github.com/uxlfoundation/oneDNN/issues/6035, open in November 2026; met in PyTorch 2.15 on an AMD EPYC
with AVX2.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

_BLOCK = 8  # channels that the kernel takes at once; with as many it is right


def guard_narrow_strides(network: nn.Module) -> None:
    """Make the convolutions that this is about see contiguous tensors where gradients are computed, in place.

    Args:
        network: on a CPU, in channels last; its values do not change, and what was guarded stays so.
    """
    if not _has_the_kernel():
        return
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and _is_narrow(layer):
            layer.weight.data = _contiguous(layer.weight.data)
            if _see_contiguous not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_see_contiguous)


def _is_narrow(layer: nn.Conv2d) -> bool:
    is_pointwise = all(size == 1 for size in layer.kernel_size)
    return is_pointwise and max(layer.stride) > 1 and layer.in_channels // layer.groups < _BLOCK


def _has_the_kernel() -> bool:
    """Return whether oneDNN may choose it here: not where it multiplies by AVX-512."""
    is_limited = any(os.environ.get(f"{name}_MAX_CPU_ISA", "ALL").upper() != "ALL" for name in ("ONEDNN", "DNNL"))
    return is_limited or not torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _see_contiguous(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return contiguous inputs where a gradient may be asked for; anything else, and an export, sees what is there."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    return tuple(_contiguous(one) if isinstance(one, Tensor) and one.dim() == 4 else one for one in inputs)


def _contiguous(tensor: Tensor) -> Tensor:
    """Return a tensor whose strides are those of a contiguous one; of one channel they fit both layouts otherwise."""
    return tensor.contiguous().view(-1).view(tensor.shape)
