"""M5, a convolutional network that hears raw sound.

Source: Dai, Dai, Qu, Li and Das, "Very deep convolutional neural networks for raw waveforms", ICASSP 2017, table 1.
"""

from __future__ import annotations

from torch import Tensor, nn


class M5(nn.Module):
    """A classifier of clips ``(N, 1, T)``; the paper's has a width of 128."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        layers = [nn.Conv1d(1, width, 80, stride=8, padding=40), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(4)]
        for before, after in ((width, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv1d(before, after, 3, padding=1), nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(4)]
        self.features = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool1d(1), nn.Flatten())
        self.classifier = nn.Linear(4 * width, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits, ``(N, num_classes)``."""
        return self.classifier(self.features(clips))


def network(num_classes: int) -> nn.Module:
    """Return M5, a quarter as wide as the paper's."""
    return M5(num_classes, 32)
