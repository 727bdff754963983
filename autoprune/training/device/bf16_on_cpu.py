"""What PyTorch trains more slowly in bf16 than in float32 on a CPU, however fast it multiplies bf16."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd


def slow_in_bf16(network: nn.Module) -> str:
    """Return the path of a layer whose backward pass in bf16 takes many times as long on a CPU; empty if there is none.

    It is a depthwise convolution with a stride: oneDNN has no fast kernel for its gradients in bf16. On an AMD EPYC one
    takes 10 to 17 times as long as in float32, and MobileNetV2, MNASNet, EfficientNet-B0 and ShuffleNetV2 train at 0.4
    to 0.6 of the speed.
    """
    layers = ((path, module) for path, module in network.named_modules() if isinstance(module, _ConvNd))
    return next((path for path, layer in layers if layer.groups == layer.in_channels > 1 and max(layer.stride) > 1), "")
