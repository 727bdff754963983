"""A MobileNetV2 for images of 32 pixels: inverted residuals with depthwise convolutions, fewer and narrower.

    python scripts/bench_int8.py --network scripts/small_mobilenet.py:small_mobilenet --images digits

Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn

EXPANSION = 6
STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 2, 2))  # channels, blocks, stride of the first


class InvertedResidual(nn.Module):
    """A widening 1×1, a depthwise 3×3 and a narrowing 1×1 convolution, with a sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inside = EXPANSION * inputs
        self.is_residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(inputs, inside, 1, bias=False)),
            nn.ReLU6(inplace=True),
            *_normed(nn.Conv2d(inside, inside, 3, stride, padding=1, groups=inside, bias=False)),
            nn.ReLU6(inplace=True),
            *_normed(nn.Conv2d(inside, outputs, 1, bias=False)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, outputs, H / stride, W / stride)``."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


def _normed(layer: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    return layer, nn.BatchNorm2d(layer.out_channels)


def small_mobilenet(num_classes: int = 10, in_channels: int = 1) -> nn.Module:
    """Return the network, for images ``(N, in_channels, 32, 32)``."""
    layers: list[nn.Module] = [*_normed(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)), nn.ReLU6(inplace=True)]
    width = 16
    for channels, blocks, stride in STAGES:
        for block in range(blocks):
            layers.append(InvertedResidual(width, channels, stride if block == 0 else 1))
            width = channels
    layers += [*_normed(nn.Conv2d(width, 128, 1, bias=False)), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))
