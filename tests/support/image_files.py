"""Folders of small random images, for the tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_images(root: Path, sizes: dict[str, tuple[int, int]], count: int = 5) -> Path:
    """Write ``count`` images in each class folder of each split; a size of −1 varies."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, (height, width) in sizes.items():
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (height + i * (height > 64), width, 3), dtype=np.uint8) + label * 100
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root
