"""Images of a folder, decoded once: every later process maps their pixels from one file in the user's cache folder.

Decoding 50,000 small JPEGs takes ten seconds of every worker and every pick. The file is named after all that its
pixels depend on, so that a changed image is decoded anew; processes of one machine share the memory it takes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from autoprune.core.atomic_write import write_through
from autoprune.core.cache_folder import cache_folder
from autoprune.errors import StudyError

FEWEST = 1000  # images; fewer are decoded in no time
_UNUSED_SECONDS = 30 * 86_400.0  # after which a file is removed by the next that is written


def decoded_once(files: Sequence[Path], decode: Callable[[], Tensor | None]) -> Tensor | None:
    """Return the pixels of images: those that an earlier process stored, else decoded and stored now.

    What cannot be stored, as on a full disk, is decoded again by the next process.

    Args:
        files: of the images, in order.
        decode: returns their pixels, uint8, ``(N, C, H, W)``; ``None``, which is not stored, where they are of
            several sizes.

    Raises:
        DataError: as ``decode`` does.
    """
    path = _path_of(files) if len(files) >= FEWEST else None
    known = _read(path, len(files)) if path else None
    if known is not None:
        return known
    images = decode()
    if images is not None and path:
        with suppress(StudyError):
            write_through(path, lambda file: np.save(file, images.numpy(), allow_pickle=False))
            _remove_unused(path.parent)
    return images


def _path_of(files: Sequence[Path]) -> Path | None:
    """Return where the pixels are stored; ``None`` if a file is gone, or the user has no home."""
    try:
        return cache_folder() / "images" / f"{_fingerprint(files)}.npy"
    except (OSError, RuntimeError):
        return None


def _fingerprint(files: Sequence[Path]) -> str:
    """Return a hash of the names and states of the files, and of the version of what decodes them."""
    digest = hashlib.sha256(f"1 {PIL.__version__}".encode())
    for file in files:
        state = file.stat()
        digest.update(f"\0{file.absolute()}\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}".encode())
    return digest.hexdigest()[:32]


def _read(path: Path, count: int) -> Tensor | None:
    """Return the pixels in a file, mapped so that changes stay in this process; ``None`` if none can be read."""
    try:
        images = np.load(path, mmap_mode="c", allow_pickle=False)
        path.touch()
    except (OSError, ValueError, EOFError):
        return None
    is_whole = images.dtype == np.uint8 and images.ndim == 4 and len(images) == count
    return torch.from_numpy(images) if is_whole else None


def _remove_unused(folder: Path) -> None:
    """Remove what no process has read for a month."""
    with suppress(OSError):
        for path in folder.glob("*.npy"):
            if time.time() - path.stat().st_mtime > _UNUSED_SECONDS:
                path.unlink()
