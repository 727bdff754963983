"""From a file to an 8-bit RGB image. Deeper images are scaled by the range of their type, never clipped to white.

``image_folder.py`` reads small images into memory with it, ``streaming.py`` reads them while they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from autoprune.errors import DataError

_SIXTEEN = ("I;16", "I;16B", "I;16L", "I;16N")  # modes of 16-bit grey images
_SIXTEEN_AS_INTEGERS = ("PNG", "PPM")  # whose 16 bits some versions of Pillow hand over as whole numbers of 32


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


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits, which Pillow would make by clipping: 256 of 65,536 would be white.

    Raises:
        DataError: if its type does not say which number is white.
    """
    if image.mode in _SIXTEEN or (image.mode == "I" and image.format in _SIXTEEN_AS_INTEGERS):
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
