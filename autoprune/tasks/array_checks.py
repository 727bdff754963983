"""What often is wrong with a user's arrays, and looks right: channels last, labels from 1, pixels that are not scaled.

What is certainly a mistake is refused; what may be meant gets a sentence, which a search says once. Used by
``in_memory.py`` and ``from_user.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.errors import DataError
from autoprune.tasks.read_image import DIM, sixteen_to_eight

_CHANNELS = (1, 2, 3, 4)
_LEAST_SIDE, _LONGEST = 8, 4  # of what looks like an image: its sides in pixels, and how much longer one may be
_LARGE = 100.0  # of floats that look as if nobody had standardised them


def check_channels_first(images: Tensor, where: str) -> None:
    """Raise if images are ``(N, H, W, C)``, as NumPy, Pillow and TensorFlow have them.

    Raises:
        DataError: that says how to permute them.
    """
    if images.dim() != 4 or images.shape[3] not in _CHANNELS or images.shape[1] in _CHANNELS:
        return
    _, first, second, _ = images.shape
    # Floats may be maps of any form, such as 64 channels of a signal, (N, 64, 1000, 1).
    is_image = min(first, second) >= _LEAST_SIDE and max(first, second) <= _LONGEST * min(first, second)
    if is_image or not images.is_floating_point():
        raise DataError(
            f"{where} have shape {tuple(images.shape)}, channels last; expected channels first, (N, C, H, W): give "
            "images.transpose(0, 3, 1, 2) of a NumPy array, or images.permute(0, 3, 1, 2) of a tensor"
        )


def check_varied(images: Tensor, where: str) -> None:
    """Raise if uint8 images are all of one colour, the same in all of them; floats may be anything.

    Raises:
        DataError: that says which colour.
    """
    if images.dtype == torch.uint8 and len(images) > 1 and images.numel() and bool(images.min() == images.max()):
        raise DataError(
            f"{where} are all of one colour: every number in them is {int(images.max())}; look at how they are read "
            "and scaled"
        )


def check_starts_at_zero(labels: Tensor, where: str) -> None:
    """Raise if labels begin at 1 or later, where nothing but the labels says how many classes there are.

    Raises:
        DataError: that says what to subtract.
    """
    low, high = int(labels.min()), int(labels.max())
    if low > 0:
        raise DataError(
            f"{where} go from {low} to {high}, and classes are numbered from 0: subtract {low} from the labels of "
            f"every split; or, if 0 is a class without examples, name all {high + 1} classes as class_names"
        )


def missing_classes(labels: Tensor, num_classes: int) -> str:
    """Return a sentence on the classes that no training example has; empty if there are none.

    >>> missing_classes(torch.tensor([0, 3, 0]), 4)
    '2 of the 4 classes have no training example (labels 1, 2): the network cannot learn them; renumber the labels if \
they are gaps'
    """
    counts = torch.bincount(labels, minlength=num_classes)
    missing = (counts == 0).nonzero().flatten().tolist()
    if not missing:
        return ""
    shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    return (
        f"{len(missing)} of the {num_classes} classes have no training example (label{'s' * (len(missing) > 1)} "
        f"{shown}): the network cannot learn them; renumber the labels if they are gaps"
    )


def unscaled(images: Tensor) -> str:
    """Return a sentence on floats that nobody seems to have scaled; empty if they are, or are no floats."""
    if not images.is_floating_point() or not images.numel():
        return ""
    low, high = float(images.min()), float(images.max())
    if images.dim() == 4 and low >= 0 and 1 < high <= 255 and bool((images == images.round()).all()):
        return (
            f"the images are floats, all of them whole numbers from {low:g} to {high:g}, and are used as they are; "
            "give uint8 to have them normalised and cropped, or standardise them"
        )
    if low == high and len(images) > 1:
        return f"the training data holds one number only, {low:g}; look at how it is read and scaled"
    if max(-low, high) > _LARGE:
        return (
            f"the training data goes from {low:g} to {high:g} and is used as it is; networks train best on features of "
            "mean 0 and standard deviation 1"
        )
    return ""


def eight_bits(images: Tensor, where: str) -> Tensor:
    """Return uint16 images scaled to uint8 by the range of their type.

    Raises:
        DataError: if they use so little of that range that nearly all would be black.
    """
    wide = images.to(torch.int32)
    high = int(wide.max()) if wide.numel() else 0
    if 0 < high < DIM:
        advice = "cast them to uint8" if high < 256 else f"scale them to uint8 by 255 / {high}, or to floats"
        raise DataError(
            f"{where} are uint16 and go up to {high} of 65535 only, so that scaled by the range of their type they "
            f"would be nearly black; {advice}"
        )
    return torch.from_numpy(sixteen_to_eight(wide.cpu().numpy()))
