"""The CIFAR ResNets of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv:1512.03385, 4.2).

Where the shape changes the shortcut is a projection (their option B), because one that pads channels with zeros cannot
be pruned. Module names are torchvision's.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.shapes import Shape, image_of


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, ``(N, C, H, W)`` to ``(N, channels, H/stride, W/stride)``."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class CifarResNet(nn.Module):
    """A ResNet of ``6 · blocks + 2`` layers for small images: three stages of 16, 32 and 64 channels.

    Args:
        blocks: residual blocks in each stage.
        num_classes: outputs.
        in_channels: channels of the images, 1 or 3 as a rule.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for images ``(N, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 20 layers: 40.81 MMACs, 0.27 M parameters on 3×32×32."""
    return _cifar_resnet(20, num_classes, in_channels, input_shape)


def resnet32(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 32 layers: 69.12 MMACs, 0.47 M parameters on 3×32×32."""
    return _cifar_resnet(32, num_classes, in_channels, input_shape)


def resnet44(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 44 layers: 97.44 MMACs, 0.66 M parameters on 3×32×32."""
    return _cifar_resnet(44, num_classes, in_channels, input_shape)


def resnet56(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 56 layers: 125.75 MMACs, 0.86 M parameters on 3×32×32."""
    return _cifar_resnet(56, num_classes, in_channels, input_shape)


def _cifar_resnet(depth: int, num_classes: int, in_channels: int, input_shape: Shape | None) -> CifarResNet:
    if input_shape is not None:
        in_channels = image_of(input_shape, f"resnet{depth}")[0]
    return CifarResNet((depth - 2) // 6, num_classes, in_channels)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))
