"""What one example looks like: ``(C, H, W)`` an image, ``(F,)`` a row of features, ``(T, F)`` a sequence of T rows.

A network gets the shape before it is built, and refuses here what it cannot read. Combined with ``models``
and the networks beside it.
"""

from __future__ import annotations

from autoprune.errors import ModelError

Shape = tuple[int, ...]
"""The shape of one example, without the batch."""


def is_image(shape: Shape) -> bool:
    """Say whether an example is an image, ``(C, H, W)``: only images have a memory layout and can be cropped."""
    return len(shape) == 3


def channels_of(shape: Shape) -> int:
    """Return the channels of an image, or the features of a row or of each row of a sequence.

    >>> channels_of((3, 32, 32)), channels_of((30,)), channels_of((16, 8))
    (3, 30, 8)
    """
    return shape[0] if is_image(shape) else shape[-1]


def described(shape: Shape) -> str:
    """Return a few words for a message.

    >>> described((3, 32, 32)), described((30,)), described((16, 8))
    ('images of 3×32×32', 'rows of 30 features', 'sequences of 16 rows of 8 features')
    """
    if len(shape) == 1:
        return f"rows of {shape[0]} features"
    if len(shape) == 2:
        return f"sequences of {shape[0]} rows of {shape[1]} features"
    return f"{'images' if is_image(shape) else 'arrays'} of {'×'.join(map(str, shape))}"


def image_of(shape: Shape, reader: str) -> tuple[int, int, int]:
    """Return channels, height and width.

    Raises:
        ModelError: if the examples are no images; names the network, ``reader``.
    """
    if not is_image(shape):
        raise ModelError(
            f"{reader} reads images (CxHxW), and the data has {described(shape)}; use a network made for them, such as "
            "'mlp' for rows and 'lstm' for sequences, or give your own 'file.py:fn'"
        )
    channels, height, width = shape
    return channels, height, width
