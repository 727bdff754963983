"""A perceptron for rows of features: :func:`mlp`, three hidden layers with batch norm."""

from __future__ import annotations

import math

from torch import Tensor, nn

from autoprune.core.shapes import Shape

_HIDDEN = (128, 128, 64)


class Perceptron(nn.Module):
    """Linear layers, each but the last followed by batch norm and ReLU.

    Args:
        features: numbers in an example.
        num_classes: outputs.
        hidden: width of each hidden layer.
    """

    def __init__(self, features: int, num_classes: int, hidden: tuple[int, ...] = _HIDDEN) -> None:
        super().__init__()
        widths = (features, *hidden)
        self.layers = nn.Sequential(*(_layer(*pair) for pair in zip(widths, hidden, strict=False)))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for examples ``(N, …)``, flattened."""
        logits: Tensor = self.fc(self.layers(x.flatten(1)))
        return logits


def mlp(num_classes: int = 10, in_channels: int = 1, input_shape: Shape | None = None) -> Perceptron:
    """Return a perceptron of widths 128, 128 and 64: 0.029 MMACs, 0.029 M parameters on 30 features and 2 classes.

    Args:
        num_classes: outputs.
        in_channels: features of a row, if there is no ``input_shape``.
        input_shape: any; an example is flattened.
    """
    return Perceptron(math.prod(input_shape or (in_channels,)), num_classes)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    """Return one hidden layer; batch norm has the bias."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True))
