"""From what a user's function returned to a task: a task stays as it is, arrays are wrapped, the rest is refused.

The arrays may be NumPy's or PyTorch's. uint8 images are normalised and cropped at random, and so are uint16 ones, which
are scaled to uint8; floats, which may be
images, rows of features or sequences, are used unchanged. ``builtin.py`` calls the function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.errors import DataError
from autoprune.tasks.array_checks import check_channels_first, eight_bits
from autoprune.tasks.classification import AdoptedClassification, LabelledData
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.task import SPLITS, DataTask

_OPTIONS = ("class_names", "padding", "flip", "mean", "std", "licence", "description")
_TEXT = "US"  # kinds of NumPy's types that hold strings
_EXPECTED = (
    "expected a Task, or (train, val) or (train, val, test), or a dictionary with the keys 'train', 'val' and "
    "perhaps 'test', where each is (images, labels); instead of images there may be other arrays of floats"
)


def as_task(made: Any, source: str) -> DataTask:
    """Return a task from what a function returned.

    A dictionary may also hold the keys ``class_names``, ``padding``, ``flip``, ``mean``, ``std``, ``licence``
    and ``description`` of :class:`ArrayTask`; by default images are cropped with
    a padding of an eighth of their height, and not mirrored.

    Args:
        made: what the function returned.
        source: the function's name, for messages.

    Raises:
        DataError: if it is neither, or the arrays do not fit together.
    """
    if isinstance(made, DataTask):
        return made
    if _has_shape_of(made, DataTask):
        return made  # type: ignore[no-any-return]
    if _has_shape_of(made, LabelledData):
        return AdoptedClassification(made)
    splits, options = _splits_and_options(made, source)
    arrays = {split: _arrays(splits[split], f"{source}: {split}") for split in splits}
    images = arrays["train"].images
    options = {"padding": images.shape[2] // 8 if images.dim() == 4 else 0, **options}
    test = arrays.get("test")
    try:
        return ArrayTask(
            source, arrays["train"], arrays["val"], (lambda: test) if test else None, len(test or ()), **options
        )
    except (TypeError, ValueError, RuntimeError) as error:  # an option of another type or length
        raise DataError(
            f"{source}: {type(error).__name__}: {error}; look at the options {', '.join(options)}"
        ) from error


def _wanted(shape: type) -> list[str]:
    """Return what an object must have to pass for another."""
    names = (*shape.__annotations__, *vars(shape))
    optional = {name for name in vars(shape) if name in shape.__annotations__}
    return [name for name in dict.fromkeys(names) if not name.startswith("_") and name not in optional]


def _has_shape_of(made: Any, shape: type) -> bool:
    return not isinstance(made, type) and all(hasattr(made, name) for name in _wanted(shape))


def _splits_and_options(made: Any, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if isinstance(made, tuple) and len(made) in (2, 3):
        return dict(zip(SPLITS, made, strict=False)), {}
    if not isinstance(made, Mapping):
        lacking = [name for name in _wanted(LabelledData) if not hasattr(made, name)]
        is_nearly_one = not isinstance(made, type) and any(
            hasattr(made, name) for name in ("train_stream", "eval_batches", "sizes")
        )
        detail = f" without {', '.join(lacking)}" if lacking and is_nearly_one else ""
        what = f"the type {made.__name__}" if isinstance(made, type) else type(made).__name__
        raise DataError(f"data {source!r} returned {what}{detail}; {_EXPECTED}")
    unknown = [str(key) for key in made if key not in SPLITS and key not in _OPTIONS]
    missing = [split for split in ("train", "val") if split not in made]
    if unknown or missing:
        faults = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
        raise DataError(
            f"data {source!r} returned a dictionary with keys {'; '.join(faults)}; {_EXPECTED}, "
            f"and options among {', '.join(_OPTIONS)}"
        )
    return {key: made[key] for key in SPLITS if key in made}, {key: made[key] for key in _OPTIONS if key in made}


def _arrays(split: Any, where: str) -> Arrays:
    if not isinstance(split, tuple | list) or len(split) != 2:
        raise DataError(f"{where} is {type(split).__name__}; expected (images, labels)")
    images, labels = _tensor(split[0], f"{where} images"), _tensor(split[1], f"{where} labels")
    check_channels_first(images, f"{where} images")
    if images.dtype == torch.uint16 and images.dim() == 4:
        images = eight_bits(images, f"{where} images")
    is_image = images.dim() == 4 and images.dtype == torch.uint8
    if not is_image and not (images.dim() >= 2 and images.is_floating_point()):
        raise DataError(
            f"{where} images have shape {tuple(images.shape)} and type {images.dtype}; expected (N, C, H, W), uint8 or "
            "float, or floats of another shape, such as (N, F) for rows of features and (N, T, F) for sequences"
            f"{_images_hint(images)}"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise DataError(
            f"{where} labels have shape {tuple(labels.shape)} and type {labels.dtype}; expected ({len(images)},), "
            f"whole numbers: the index of a class for each image{_labels_hint(labels)}"
        )
    if not len(images):
        raise DataError(f"{where} is empty; it needs at least one image")
    if images.is_floating_point():
        images = images.float()
        if not images.isfinite().all():
            raise DataError(f"{where} images hold NaN or infinite numbers; correct them where they are made")
    return Arrays(images.detach().cpu(), labels.long().cpu())


def _images_hint(images: Tensor) -> str:
    """Return what may be meant by images of another shape or type, to end a message with; or nothing."""
    if images.dim() == 3 and images.dtype == torch.uint8:
        return ". Grey images need a channel: images[:, None]"
    if images.dim() == 4 and not images.is_complex():
        return ". Pixels from 0 to 255 are uint8: cast them"
    return ""


def _labels_hint(labels: Tensor) -> str:
    """Return how labels of another form become indices, to end a message with; or nothing."""
    if labels.dim() == 2 and labels.shape[1] > 1:
        return ". One column for each class: labels.argmax(1)"
    if labels.dim() == 2:
        return ". One column: labels[:, 0]"
    return ". Cast whole numbers that are stored as floats" if labels.is_floating_point() else ""


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | list | tuple):
        try:
            array = np.array(value)
            if array.dtype.kind in _TEXT:
                raise DataError(
                    f"{where} are strings; expected numbers: np.unique(labels, return_inverse=True)[1], over all "
                    "splits at once, gives those of labels"
                )
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # files may have the other byte order
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} cannot be converted to a tensor: {error}") from error
    raise DataError(f"{where} are {type(value).__name__}; expected a tensor or a NumPy array")
