"""From a folder of images to a task: in memory if they are small, else streamed from disk.

Small images of one size are read once and become an :class:`ArrayTask`, a hundred times faster than decoding them in
every epoch; all others become a :class:`FolderTask`. ``folder_listing.py`` finds the files, ``decoded_images.py`` keeps
what was read for the next process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autoprune.errors import DataError
from autoprune.tasks.decoded_images import decoded_once
from autoprune.tasks.folder_listing import Listing, check_classes, list_split
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.read_image import Unreadable, check_not_dim, read_image
from autoprune.tasks.streaming import FolderTask
from autoprune.tasks.task import SPLITS, DataTask

_SMALL_SIDE = 64
_SMALL_BYTES = 1_500_000_000


def image_folder(path: str | Path, image_size: int = 224, workers: int = 2) -> DataTask:
    """Return the task for a folder of images.

    Args:
        path: holds ``train/`` and ``val/``, and perhaps ``test/``, each with the same class folders.
        image_size: height and width that images are scaled to, pixels. Images that all have one size of at most
            64 × 64 keep it, as there is nothing to gain from enlarging them.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        DataError: if a folder is missing or empty, there is one class only, the splits have different
            classes, or an image cannot be read or would be nearly black.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DataError(f"there is no image folder {str(root.absolute())!r}; expected one with train/ and val/ inside")
    listings = {split: list_split(root / split) for split in SPLITS if split != "test" or (root / split).is_dir()}
    check_classes(listings, root)
    for split, listing in listings.items():
        check_not_dim(listing.files, f"the {split} images in {str(root)!r}")
    return _small_task(root, listings) or FolderTask(root, listings, image_size, workers)


def _small_task(root: Path, listings: dict[str, Listing]) -> ArrayTask | None:
    """Return the images in memory if they are small and of one size, else ``None``."""
    train = _read_small(listings["train"])
    val = _read_small(listings["val"]) if train else None
    if train is None or val is None or train.images.shape[1:] != val.images.shape[1:]:
        return None
    test, side = listings.get("test"), train.images.shape[-1]
    return ArrayTask(
        root.name,
        train,
        val,
        (lambda: _read_small_test(test)) if test else None,
        len(test.files) if test else 0,
        class_names=listings["train"].class_names,
        padding=side // 8,
        flip=True,
        description=f"Images in {root}, {train.images.shape[-2]} × {side} pixels, held in memory.",
    )


def _read_small_test(listing: Listing) -> Arrays:
    test = _read_small(listing)
    if test is None:
        raise DataError("the test images do not all have the size of the training images; scale them to that size")
    return test


def _read_small(listing: Listing) -> Arrays | None:
    """Return small images of one size and their labels, ``None`` if they are not."""
    files = listing.files
    first = _pixels(files[0])
    if max(first.shape) > _SMALL_SIDE or len(files) * first.numel() > _SMALL_BYTES:
        return None
    images = decoded_once(files, lambda: _decoded(files, first.shape))
    return None if images is None else Arrays(images, torch.tensor(listing.labels))


def _decoded(files: Sequence[Path], shape: torch.Size) -> Tensor | None:
    """Return the pixels of images, ``(N, *shape)``; ``None`` if one has another shape."""
    images = torch.empty((len(files), *shape), dtype=torch.uint8)
    for position, file in enumerate(files):
        pixels = _pixels(file)
        if pixels.shape != shape:
            return None
        images[position] = pixels
    return images


def _pixels(file: Path) -> Tensor:
    """Return an image, uint8, ``(3, H, W)``.

    Raises:
        DataError: if it cannot be read.
    """
    image = read_image(file)
    if isinstance(image, Unreadable):
        raise DataError(image.message())
    raw = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return raw.view(image.height, image.width, 3).permute(2, 0, 1)
