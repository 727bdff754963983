"""From a file to an 8-bit RGB image. Deeper images are scaled by the range of their type, never clipped to white.

``image_folder.py`` reads small images into memory with it, ``streaming.py`` reads them while they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoprune.errors import DataError

_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")  # modes of 16-bit grey images
_SIXTEEN_AS_INTEGERS = ("PNG", "PPM")  # whose 16 bits some versions of Pillow hand over as whole numbers of 32
DIM = 4096  # of 65,536 values: an image below it would keep less than 17 of 256 shades of grey
_SAMPLED = 16  # images of a split


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read; a value, because an exception in a worker process ends as a page of traceback."""

    file: str
    reason: str

    def message(self) -> str:
        """Return the error message: which file, why, and what to do."""
        return f"the image {self.file!r} cannot be read ({self.reason}); replace or remove it"


def read_image(file: Path) -> Image.Image | Unreadable:
    """Return an image in RGB, or why it cannot be read."""
    try:
        with Image.open(file) as image:
            return _eight_bits(image).convert("RGB")
    except DataError as error:
        return Unreadable(str(file), str(error))
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and their own
        return Unreadable(str(file), f"{type(error).__name__}: {error}")


def check_not_dim(files: Sequence[Path], where: str) -> None:
    """Raise if a sample of images have 16 bits each and use so few of them that all would be nearly black.

    Cameras and scanners of 10 and 12 bits write such files. Files that cannot be read are passed over.

    Raises:
        DataError: that says how to scale them.
    """
    highest = [_highest_of_sixteen_bits(file) for file in files[:: max(1, len(files) // _SAMPLED)]]
    known = [value for value in highest if value is not None]
    if known and len(known) == len(highest) and 0 < max(known) < DIM:
        raise DataError(
            f"{where} have 16 bits and go up to {max(known)} of 65535 only, so that scaled by the range of their type "
            "they would be nearly black; scale them to the whole range, or save 8 bits"
        )


def _highest_of_sixteen_bits(file: Path) -> int | None:
    """Return the largest number in an image of 16 bits; ``None`` for any other file."""
    try:
        with Image.open(file) as image:
            return int(np.asarray(image).max()) if _has_sixteen_bits(image) else None
    except Exception:  # whoever reads it for its pixels says what is wrong with it
        return None


def _has_sixteen_bits(image: Image.Image) -> bool:
    return image.mode in _SIXTEEN or (image.mode == "I" and image.format in _SIXTEEN_AS_INTEGERS)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits, which Pillow would make by clipping: 256 of 65,536 would be white.

    Raises:
        DataError: if its type does not say which number is white.
    """
    if _has_sixteen_bits(image):
        return Image.fromarray(sixteen_to_eight(np.asarray(image)))
    if image.mode == "I":
        raise DataError(
            "its pixels are whole numbers of 32 bits, of which nobody knows how large white is: save 8 or 16"
        )
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            raise DataError(
                f"its pixels are floats from {low:g} to {high:g}, expected 0 to 1: scale them, or save 8 bits"
            )
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    return image


def sixteen_to_eight(values: np.ndarray) -> np.ndarray:
    """Return whole numbers from 0 to 65,535 scaled to 0 … 255, as uint8 of the same shape.

    >>> sixteen_to_eight(np.array([0, 256, 32768, 65535])).tolist()
    [0, 1, 128, 255]
    """
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
