"""Data that fits in memory: :class:`ArrayTask`, each split as one tensor.

A split is moved to the device once; a training batch is then one indexing operation (see ``augment.py``) and, for
uint8 images, one multiply-add for the normalisation. Filled by ``builtin.py``, ``image_folder.py`` and
``from_user.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoprune.core.shapes import Shape, channels_of, described
from autoprune.errors import DataError
from autoprune.tasks.array_checks import (
    check_channels_first,
    check_starts_at_zero,
    check_varied,
    missing_classes,
    unscaled,
)
from autoprune.tasks.augment import crop_and_flip, pad_images
from autoprune.tasks.classification import Classification, LabelledBatch
from autoprune.tasks.task import SEARCHED, Placement, check_split, stream_seed, subset


@dataclass(frozen=True)
class Arrays:
    """The examples of one split and their labels, int64, ``(N,)``.

    Images are ``(N, C, H, W)``, uint8 or float32; rows ``(N, F)``, sequences ``(N, T, F)`` and the like are float32.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Any) -> Arrays:
        """Return the images and labels at an index."""
        return Arrays(self.images[index], self.labels[index])


class ArrayTask(Classification):
    """Images or other examples in memory; a :class:`Classification`.

    uint8 images are cropped at random and perhaps mirrored for training, and normalised per channel. Floats, images
    or not, are used unchanged: making them floats is taken to mean that they are prepared.

    Args:
        name: of the data, for people.
        train: training images.
        val: validation images.
        test: a function that returns the test images, called by ``eval_batches("test", …)`` and nowhere else;
            ``None`` if there are none.
        test_size: how many test images it returns.
        class_names: one for each class; ``None`` for "0", "1", …
        padding: of the random crop, in pixels; ignored for floats.
        flip: whether to mirror; ignored for floats.
        mean: per channel, of images scaled to [0, 1]; ``None`` to measure it on the training images.
        std: standard deviation, in the same form.
        licence: of the images.
        description: one or two sentences.

    Raises:
        DataError: if the splits do not belong together.
    """

    replayable = True

    def __init__(
        self,
        name: str,
        train: Arrays,
        val: Arrays,
        test: Callable[[], Arrays] | None = None,
        test_size: int = 0,
        *,
        class_names: Sequence[str] | None = None,
        padding: int = 0,
        flip: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        licence: str = "",
        description: str = "",
    ) -> None:
        self.name, self.licence, self.description = name, licence, description
        if not class_names and len(train):
            check_starts_at_zero(train.labels, f"train labels of {name}")
        self.num_classes = len(class_names) if class_names else int(train.labels.max()) + 1
        self.class_names = tuple(class_names or map(str, range(self.num_classes)))
        self.input_shape = _shape(train.images)
        self.sizes = {"train": len(train), "val": len(val), "test": test_size if test else 0}
        self._dtype, raw = train.images.dtype, train.images.is_floating_point()
        self._padding, self._flip = (0, False) if raw else (padding, flip)
        measured = ([0.0], [1.0]) if raw else _moments(train.images)
        self._mean, self._std = tuple(mean or measured[0]), tuple(std or measured[1])
        self._check_settings()
        self._check(train, "train")
        self._check(val, "val")
        if len(train) < 2:
            raise DataError(
                f"{name} has {len(train)} training image; batch norm needs at least 2, and training many more"
            )
        found = missing_classes(train.labels, self.num_classes), unscaled(train.images)
        self.notes = tuple(note for note in found if note)
        self._stored = {
            "train": (_to_stored(train.images, self._padding), train.labels),
            "val": (_to_stored(val.images, 0), val.labels),
        }
        self._open_test = test
        self._placed: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._identity = ""

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of training batches, the same for the same arguments on every device."""
        images, labels = self._on(runtime.device, "train")
        generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
        for index in torch.split(torch.randperm(len(labels), generator=generator), batch_size):
            if len(index) == 1 < batch_size:
                return
            chosen = index.to(labels.device)
            crops = (
                crop_and_flip(images, index, self._padding, self._flip, generator)
                if images.dim() == 4
                else images[chosen]
            )
            yield LabelledBatch(self._normalised(crops, runtime), labels[chosen])

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the images of a split as they are; ``limit`` takes a fixed random subset.

        Raises:
            UnknownNameError: if there is no such split.
            DataError: if it is empty.
        """
        check_split(split, self.sizes, self.name)
        images, labels = self._on(runtime.device, split)
        inside = _from_stored(images, self._padding if split == "train" else 0)
        if limit is not None and limit < len(labels):
            index = torch.tensor(subset(len(labels), limit), device=labels.device)
            inside, labels = inside[index], labels[index]
        for batch, answers in zip(torch.split(inside, batch_size), torch.split(labels, batch_size), strict=True):
            yield LabelledBatch(self._normalised(batch, runtime), answers.clone())  # a loss may write into it

    def identity(self) -> str:
        """Return a hash of the training and validation images, their labels and how they are augmented."""
        if not self._identity:
            shapes = [(str(self._stored[split][0].dtype), tuple(self._stored[split][0].shape)) for split in SEARCHED]
            settings = (self._padding, self._flip, self._mean, self._std, shapes)
            digest = hashlib.sha256(repr(settings).encode())
            for tensor in (tensor for split in SEARCHED for tensor in self._stored[split]):
                digest.update(tensor.contiguous().numpy().data)
            self._identity = digest.hexdigest()
        return self._identity

    def _normalised(self, images: Tensor, runtime: Placement) -> Tensor:
        if images.is_floating_point():
            return images.clone(memory_format=runtime.format_of(images))  # never a view of what is stored
        scale = torch.tensor([1 / (255 * s) for s in self._std], device=images.device).view(1, -1, 1, 1)
        shift = torch.tensor([-m / s for m, s in zip(self._mean, self._std, strict=True)], device=images.device)
        floats = images.to(torch.float32, memory_format=runtime.memory_format)
        return floats.mul_(scale).add_(shift.view(1, -1, 1, 1))

    def _on(self, device: str, split: str) -> tuple[Tensor, Tensor]:
        if (split, device) not in self._placed:
            if split == "test" and "test" not in self._stored:
                self._stored["test"] = self._read_test()
            images, labels = self._stored[split]
            self._placed[split, device] = images.to(device), labels.to(device)
        return self._placed[split, device]

    def _read_test(self) -> tuple[Tensor, Tensor]:
        if self._open_test is None:
            raise DataError(f"{self.name} has no test images")
        test = self._open_test()
        self._check(test, "test")
        if len(test) != self.sizes["test"]:
            raise DataError(
                f"{self.name} announced {self.sizes['test']} test images and read {len(test)}; "
                "set test_size to as many as there are"
            )
        return _to_stored(test.images, 0), test.labels

    def _check_settings(self) -> None:
        channels = channels_of(self.input_shape)
        if self.num_classes < 2:
            raise DataError(f"{self.name} has {self.num_classes} class; expected two or more")
        if len(self._mean) not in (1, channels) or len(self._std) not in (1, channels) or min(self._std) <= 0:
            raise DataError(
                f"{self.name} has mean {self._mean} and std {self._std} for images of {channels} channels; "
                "expected one positive std and one mean for each channel"
            )
        if self._padding < 0:
            raise DataError(f"{self.name} has a padding of {self._padding} pixels; expected 0 or more")

    def _check(self, arrays: Arrays, split: str) -> None:
        if not len(arrays):
            raise DataError(f"the {split} split of {self.name} is empty; it needs at least one image")
        check_varied(arrays.images, f"{split} images of {self.name}")
        shape = _shape(arrays.images)
        if shape != self.input_shape:
            raise DataError(
                f"{split} images of {self.name} are {shape}, and train images {self.input_shape}, that is "
                f"{described(self.input_shape)}; scale all splits to one size"
            )
        if arrays.images.dtype != self._dtype:
            raise DataError(
                f"{split} images of {self.name} are {arrays.images.dtype}, and train images {self._dtype}; "
                "prepare all splits in the same way"
            )
        low, high = int(arrays.labels.min()), int(arrays.labels.max())
        if low < 0 or high >= self.num_classes:
            below = f"; add {-low} to the labels of every split, or leave these examples out" if low < 0 else ""
            raise DataError(
                f"{split} labels of {self.name} go from {low} to {high}; expected 0 to {self.num_classes - 1}, "
                f"as the training labels or class names say{below}"
            )


def _shape(images: Tensor) -> Shape:
    """Return the shape of one example.

    Raises:
        DataError: if there is none, or it does not fit the type.
    """
    if images.dim() < 2 or not (images.is_floating_point() or (images.dtype == torch.uint8 and images.dim() == 4)):
        raise DataError(
            f"images of shape {tuple(images.shape)} and type {images.dtype} were given; expected (N, C, H, W), uint8 "
            "or float32, or other examples (N, …), float32"
        )
    check_channels_first(images, "images")
    return tuple(images.shape[1:])


def _to_stored(images: Tensor, padding: int) -> Tensor:
    """Return examples in the form in which they are stored: images as ``augment.py`` reads them, others unchanged."""
    return pad_images(images, padding) if images.dim() == 4 else images.contiguous()


def _from_stored(stored: Tensor, padding: int) -> Tensor:
    """Return stored examples as they were, without their padding."""
    if stored.dim() != 4:
        return stored
    return stored[:, padding : stored.shape[1] - padding, padding : stored.shape[2] - padding].permute(0, 3, 1, 2)


def _moments(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 images scaled to [0, 1]."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        shares = torch.bincount(images[:, channel].flatten(), minlength=256).double() / images[:, channel].numel()
        average = float((shares * values).sum())
        spread = float((shares * (values - average) ** 2).sum()) ** 0.5
        # Rounded, so that the order of summation, which differs between machines, does not show.
        mean.append(round(average, 6))
        std.append(round(spread, 6) or 1.0)
    return mean, std
