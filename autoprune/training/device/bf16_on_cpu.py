"""Where bf16 pays on a CPU: on which processors, and for which layers it does not on any."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

_CPU_INFO = Path("/proc/cpuinfo")


def has_fast_bf16() -> bool:
    """Return whether the CPU has AMX, or is one of AMD's with AVX512-BF16.

    Intel's AVX512-BF16 takes one such product per cycle where it takes two of float32, and a ResNet-56 trains at 0.7 to
    0.9 of the speed; on AMD's it trains at 1.5 times the speed.
    """
    return has_amx() or (_has("avx512_bf16") and "GenuineIntel" not in _cpu_info())


def has_amx() -> bool:
    """Return whether the CPU has Intel's AMX, which multiplies matrices in bf16 many times faster than in float32."""
    return _has("amx_bf16")


def slow_in_bf16(network: nn.Module) -> str:
    """Return the path of a layer whose backward pass in bf16 takes many times as long on a CPU; empty if there is none.

    It is a depthwise convolution with a stride: oneDNN has no fast kernel for its gradients in bf16. On an AMD EPYC one
    takes 10 to 17 times as long as in float32, and MobileNetV2, MNASNet, EfficientNet-B0 and ShuffleNetV2 train at 0.4
    to 0.6 of the speed.
    """
    layers = ((path, module) for path, module in network.named_modules() if isinstance(module, _ConvNd))
    return next((path for path, layer in layers if layer.groups == layer.in_channels > 1 and max(layer.stride) > 1), "")


def _has(flag: str) -> bool:
    if hasattr(torch.cpu, "get_capabilities"):  # torch ≥ 2.11
        return torch.cpu.get_capabilities().get(flag) is True
    return flag in _cpu_info()


def _cpu_info() -> str:
    """Return what Linux says of its processors; elsewhere nothing."""
    return _CPU_INFO.read_text(encoding="utf-8", errors="replace") if _CPU_INFO.exists() else ""
