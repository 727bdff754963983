"""From a name to data: :func:`digits`, :func:`breast_cancer`, :func:`cifar10`, and :func:`build_task` for any source.

A split never changes: the seeds here are constants, so that two studies can be compared. Combined with
``in_memory.py``, ``image_folder.py`` and ``from_user.py`` (the user's own function).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.builtin_names import DATA
from autoprune.core.cache_folder import cache_folder
from autoprune.core.user_code import call_with_accepted
from autoprune.errors import DataError
from autoprune.tasks.audio_folder import AudioTask
from autoprune.tasks.from_user import as_task
from autoprune.tasks.image_folder import image_folder
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.ratings import RatingTask
from autoprune.tasks.task import DataTask

__all__ = ["ArrayTask", "Arrays", "DataTask", "breast_cancer", "build_task", "cifar10", "digits"]

_FOLDER, _SOUNDS, _RATINGS = "imagefolder:", "audiofolder:", "ratings:"
_SPLIT_SEED = 0
_SIXTY_TWENTY_TWENTY = ("test", "train", "train", "train", "val")  # what five does not divide goes to test and train
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_CIFAR10_TEST_SIZE = 10_000


def build_task(
    source: str,
    *,
    root: str = "",
    image_size: int = 224,
    workers: int = 2,
    sample_rate: int = 16_000,
    seconds: float = 1.0,
) -> DataTask:
    """Return the data that a name stands for.

    Args:
        source: a built-in or plug-in (``digits``, ``breast-cancer``, ``cifar10``), ``imagefolder:PATH``,
            ``audiofolder:PATH``, ``ratings:FILE.csv``, or the user's own ``pkg.mod:fn`` or ``file.py:fn``, called with
            whichever of ``root``, ``image_size`` and ``workers`` it accepts.
        root: where downloaded data is looked for and stored; empty for the cache folder, ``~/.cache/autoprune``.
        image_size: height and width that images of a folder are brought to, pixels.
        workers: processes that decode the images of a folder.
        sample_rate: samples per second that sounds of a folder are brought to.
        seconds: length that they are cut or padded to.

    Raises:
        UnknownNameError: if the name is unknown.
        DataError: if the data cannot be read or used.
    """
    if source.startswith(_FOLDER):
        return image_folder(source.removeprefix(_FOLDER), image_size, workers)
    if source.startswith(_SOUNDS):
        return AudioTask(source.removeprefix(_SOUNDS), sample_rate, seconds)
    if source.startswith(_RATINGS):
        return RatingTask(source.removeprefix(_RATINGS))
    made = call_with_accepted(DATA.get(source), source, DataError, root=root, image_size=image_size, workers=workers)
    return as_task(made, source)


def digits() -> ArrayTask:
    """Return scikit-learn's 1,797 handwritten digits, enlarged from 8×8 to 32×32, one channel.

    1,078 for training, 359 for validation, 360 for test, with every class in the same shares. Training crops
    move a digit by up to one original pixel; digits are not mirrored.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.tensor(raw.images, dtype=torch.float32)[:, None] * (255 / 16)
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False).round().to(torch.uint8)
    everything = Arrays(images, torch.tensor(raw.target, dtype=torch.int64))
    parts = _stratified(everything.labels, _SIXTY_TWENTY_TWENTY)
    return _task_of_parts(
        "digits",
        everything,
        parts,
        class_names=tuple("0123456789"),
        padding=4,
        licence="CC BY 4.0",
        description="Handwritten digits (UCI Optical Recognition of Handwritten Digits, as scikit-learn carries them), "
        "8×8 enlarged to 32×32. Split 60/20/20 by class with a constant seed.",
    )


def breast_cancer() -> ArrayTask:
    """Return scikit-learn's 569 breast tumours, 30 measured features each, malignant or benign.

    342 for training, 113 for validation, 114 for test, with both classes in the same shares. Every feature is scaled
    to mean 0 and standard deviation 1 on the training rows; validation and test rows are scaled by the same numbers.
    """
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer()
    rows, labels = torch.from_numpy(raw.data), torch.from_numpy(raw.target).long()
    parts = _stratified(labels, _SIXTY_TWENTY_TWENTY)
    seen = rows[parts["train"]]
    std, mean = torch.std_mean(seen, dim=0, correction=0)
    everything = Arrays(((rows - mean) / std).float(), labels)  # computed in double precision
    return _task_of_parts(
        "breast-cancer",
        everything,
        parts,
        class_names=tuple(map(str, raw.target_names)),
        licence="CC BY 4.0",
        description="Breast tumours, each 30 features measured on the cell nuclei of a needle biopsy, malignant or "
        "benign (UCI Breast Cancer Wisconsin (Diagnostic), as scikit-learn carries it). Standardised by the training "
        "rows. Split 60/20/20 by class with a constant seed.",
    )


def cifar10(root: str = "") -> ArrayTask:
    """Return CIFAR-10, downloaded once (170 MB) unless it is in ``root`` already.

    45,000 images for training and 5,000 for validation, 500 of each class, come from its training set; its 10,000
    test images are the test split.

    Raises:
        DataError: if it is neither there nor can be downloaded.
    """
    folder = Path(root).expanduser() if root else cache_folder()
    everything, class_names = _read_cifar10(folder, train=True)
    parts = _stratified(everything.labels, ("val", *["train"] * 9))
    return ArrayTask(
        "cifar10",
        everything.at(parts["train"]),
        everything.at(parts["val"]),
        lambda: _read_cifar10(folder, train=False)[0],
        _CIFAR10_TEST_SIZE,
        class_names=class_names,
        padding=4,
        flip=True,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        licence="none stated; cite Krizhevsky 2009",
        description="Photographs of ten kinds of things, 32×32 (Krizhevsky, Learning Multiple Layers of Features from "
        "Tiny Images, 2009). 5,000 of its 50,000 training images validate, chosen by class with a constant seed.",
    )


def _read_cifar10(folder: Path, train: bool) -> tuple[Arrays, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    try:
        folder.mkdir(parents=True, exist_ok=True)
        raw = CIFAR10(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:  # no connection, no room, a damaged archive
        raise DataError(
            f"CIFAR-10 is not in {str(folder)!r} and could not be downloaded ({type(error).__name__}: {error}). "
            f"Fetch {_CIFAR10_URL} on another machine and put it, or the folder 'cifar-10-batches-py' it holds, "
            "there; or give another folder as data.root."
        ) from error
    images = torch.from_numpy(raw.data).permute(0, 3, 1, 2)
    return Arrays(images, torch.tensor(raw.targets, dtype=torch.int64)), tuple(raw.classes)


def _task_of_parts(name: str, everything: Arrays, parts: dict[str, Tensor], **options: Any) -> ArrayTask:
    """Return the task whose splits are these parts of all examples; options as for :class:`ArrayTask`."""
    train, val = everything.at(parts["train"]), everything.at(parts["val"])
    return ArrayTask(name, train, val, lambda: everything.at(parts["test"]), len(parts["test"]), **options)


def _stratified(labels: Tensor, cycle: tuple[str, ...]) -> dict[str, Tensor]:
    """Deal the images of each class, shuffled, to the parts in turn; indices are ascending within a part.

    NumPy promises that RandomState's streams never change (NEP 19), which PyTorch does not for its own.
    """
    shuffled = np.random.RandomState(_SPLIT_SEED).permutation(len(labels))
    by_class = shuffled[np.argsort(labels.numpy()[shuffled], kind="stable")]
    turns = np.arange(len(labels)) % len(cycle)
    return {
        part: torch.from_numpy(np.sort(by_class[np.isin(turns, [i for i, name in enumerate(cycle) if name == part])]))
        for part in dict.fromkeys(cycle)
    }
