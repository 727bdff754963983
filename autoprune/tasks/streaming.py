"""Images that are decoded while they are needed: :class:`FolderTask`, with torchvision's transforms.

The random crop of an image is seeded by (seed, epoch, image), so a stream does not depend on the number of
worker processes. ``folder_listing.py`` finds the files, ``read_image.py`` reads one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from autoprune.core.cores import available_cores
from autoprune.errors import DataError
from autoprune.tasks.classification import Classification, LabelledBatch
from autoprune.tasks.folder_listing import Listing
from autoprune.tasks.read_image import Unreadable, read_image
from autoprune.tasks.task import SEARCHED, SPLITS, Placement, check_split, stream_seed, subset

_REPLAY_BYTES = 256_000_000  # a teacher's stored answers to one epoch
# Mean and standard deviation of ImageNet, which pretrained networks expect.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class FolderTask(Classification):
    """Images on disk, decoded while they are needed; a :class:`Classification`.

    Training takes a random part of each image at a random scale, and mirrors half of them; evaluation
    brings the shorter side to 8/7 of the size and takes the centre.
    """

    licence = ""

    def __init__(self, root: Path, listings: dict[str, Listing], image_size: int, workers: int) -> None:
        self.name = root.name
        self.class_names = listings["train"].class_names
        self.num_classes = len(self.class_names)
        self.input_shape = (3, image_size, image_size)
        self.sizes = {split: len(listings[split].files) if split in listings else 0 for split in SPLITS}
        self.replayable = 4 * self.sizes["train"] * self.num_classes <= _REPLAY_BYTES
        self.description = f"Images in {root}, brought to {image_size} × {image_size} while they are read."
        self._root, self._listings = root, listings
        self._workers = min(workers, available_cores())

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of training batches, the same for the same arguments on every machine.

        Raises:
            DataError: if an image cannot be read.
        """
        generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
        order = torch.split(torch.randperm(self.sizes["train"], generator=generator), batch_size)
        batches = [index.tolist() for index in order if len(index) > 1 or batch_size == 1]
        decoded = _Decoded(self._listings["train"], _train_transform(self.input_shape[1]), (seed, epoch))
        yield from self._batches(decoded, batches, runtime)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the images of a split, cut to size; ``limit`` takes a fixed random subset.

        Raises:
            UnknownNameError: if there is no such split.
            DataError: if it is empty, or an image cannot be read.
        """
        check_split(split, self.sizes, self.name)
        count = self.sizes[split]
        index = subset(count, count if limit is None else limit)
        batches = [index[start : start + batch_size] for start in range(0, len(index), batch_size)]
        yield from self._batches(
            _Decoded(self._listings[split], _eval_transform(self.input_shape[1])), batches, runtime
        )

    def identity(self) -> str:
        """Return a hash of the names, sizes and dates of the training and validation images, and of the image size."""
        digest = hashlib.sha256(repr(self.input_shape).encode())
        for file in (file for split in SEARCHED for file in self._listings[split].files):
            stat = file.stat()
            digest.update(f"{file.relative_to(self._root).as_posix()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _batches(self, decoded: _Decoded, batches: list[list[int]], runtime: Placement) -> Iterator[LabelledBatch]:
        loader: DataLoader[Any] = DataLoader(
            decoded,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=runtime.device == "cuda",
            generator=torch.Generator(),  # or it would draw from the global one
        )
        mean = torch.tensor(_MEAN, device=runtime.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(_STD, device=runtime.device).view(1, 3, 1, 1) * 255
        for loaded in loader:
            if isinstance(loaded, Unreadable):
                raise DataError(loaded.message())
            images, labels = loaded
            placed = images.to(runtime.device, torch.float32, non_blocking=True, memory_format=runtime.memory_format)
            yield LabelledBatch(placed.sub_(mean).div_(std), labels.to(runtime.device, non_blocking=True))


class _Decoded(Dataset[Any]):
    """The images of a listing, read and transformed; with a seed, the same way every time."""

    def __init__(self, listing: Listing, transform: Any, seed: tuple[int, int] | None = None) -> None:
        self.listing, self.transform, self.seed = listing, transform, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Unreadable:
        image = read_image(self.listing.files[index])
        if isinstance(image, Unreadable):
            return image
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms draw from PyTorch's global generator
            torch.default_generator.manual_seed(stream_seed(*(self.seed or ()), index))
            return self.transform(image), self.listing.labels[index]


def _collate(items: list[tuple[Tensor, int] | Unreadable]) -> tuple[Tensor, Tensor] | Unreadable:
    images, labels = [], []
    for item in items:
        if isinstance(item, Unreadable):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)


def _train_transform(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])


def _eval_transform(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.Resize(size * 8 // 7, antialias=True), v2.CenterCrop(size), v2.PILToTensor()])
