"""A recurrent network: :func:`lstm`, two LSTM layers that read a sequence row by row and a classifier on the last step.

An image is read as a sequence too, from top to bottom. Hochreiter and Schmidhuber, "Long Short-Term Memory",
Neural Computation 9(8), 1997; reading images by rows is an old test of recurrent networks.
"""

from __future__ import annotations

from torch import Tensor, nn

from autoprune.core.shapes import Shape, described, is_image
from autoprune.errors import ModelError


class LstmClassifier(nn.Module):
    """A classifier of sequences, by the state after the last row.

    Args:
        features: numbers in a row.
        num_classes: outputs.
        hidden: width of each of the two layers.
    """

    def __init__(self, features: int, num_classes: int, hidden: int = 64) -> None:
        super().__init__()
        # Two modules, because the layers of one nn.LSTM must be equally wide, and these are cut one by one.
        self.lstm1 = nn.LSTM(features, hidden, batch_first=True)
        self.lstm2 = nn.LSTM(hidden, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for sequences ``(N, T, F)`` or images ``(N, C, H, W)``."""
        if x.dim() == 4:
            x = x.transpose(1, 2).flatten(2)  # (N, H, C·W): a row holds its pixels of every channel
        below, _ = self.lstm1(x)
        states, _ = self.lstm2(below)
        logits: Tensor = self.fc(states[:, -1])
        return logits


def lstm(num_classes: int = 10, in_channels: int = 1, input_shape: Shape | None = None) -> LstmClassifier:
    """Return two LSTM layers of width 64 and a classifier: 1.84 MMACs, 0.059 M parameters on 1×32×32.

    Args:
        num_classes: outputs.
        in_channels: channels of 32×32 images, if there is no ``input_shape``.
        input_shape: ``(C, H, W)``, read as H rows of C·W numbers, or ``(T, F)``.

    Raises:
        ModelError: if the examples are neither images nor sequences.
    """
    shape = input_shape or (in_channels, 32, 32)
    if not is_image(shape) and len(shape) != 2:
        raise ModelError(f"lstm reads sequences or images, and the data has {described(shape)}; use 'mlp' for rows")
    return LstmClassifier(shape[0] * shape[2] if is_image(shape) else shape[1], num_classes)
