import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoprune.tasks.augment import augment, crop_and_flip, pad_images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(count: int, channels: int, height: int, width: int) -> Tensor:
    """Return images in which every pixel has a value of its own, and none is zero."""
    return torch.arange(1, count * channels * height * width + 1).float().view(count, channels, height, width)


def slow(images: Tensor, padding: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Crop one image after the other, drawing as the fast one does."""
    offsets = torch.randint(0, 2 * padding + 1, (2, len(images)), generator=rng).tolist()
    mirrored = torch.rand(len(images), generator=rng).lt(0.5).tolist() if flip else [False] * len(images)
    height, width = images.shape[2:]
    out = []
    for image, top, left, mirror in zip(images, *offsets, mirrored, strict=True):
        padded = torch.nn.functional.pad(image, (padding,) * 4)
        crop = padded[:, top : top + height, left : left + width]
        out.append(crop.flip(2) if mirror else crop)
    return torch.stack(out)


@given(
    count=st.integers(1, 6),
    channels=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_slow_reference(
    count: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = numbered(count, channels, height, width)
    assert torch.equal(augment(images, padding, flip, generator(seed)), slow(images, padding, flip, generator(seed)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_keeps_type_and_shape_and_the_given_images(dtype: torch.dtype) -> None:
    images = torch.randint(0, 255, (5, 3, 8, 8), generator=generator()).to(dtype)
    before = images.clone()
    out = augment(images, 2, True, generator())
    assert (out.dtype, out.shape) == (dtype, images.shape)
    assert torch.equal(images, before)


def test_is_channels_last() -> None:
    assert augment(numbered(4, 3, 8, 8), 1, True, generator()).is_contiguous(memory_format=torch.channels_last)


def test_every_image_has_its_own_crop_and_mirror() -> None:
    same = numbered(1, 1, 8, 8).expand(200, 1, 8, 8)
    out = augment(same, 1, True, generator())
    assert len({tuple(image.flatten().tolist()) for image in out}) == 18  # 3 × 3 offsets, mirrored or not


def test_without_padding_and_flip_nothing_happens() -> None:
    images = numbered(4, 2, 5, 5)
    assert torch.equal(augment(images, 0, False, generator()), images)


def test_chooses_by_index() -> None:
    images = numbered(5, 1, 4, 4)
    out = crop_and_flip(pad_images(images, 0), torch.tensor([4, 0, 4]), 0, False, generator())
    assert torch.equal(out, images[[4, 0, 4]])


def test_same_seed_same_crops() -> None:
    images = numbered(20, 3, 8, 8)
    assert torch.equal(augment(images, 2, True, generator(1)), augment(images, 2, True, generator(1)))
    assert not torch.equal(augment(images, 2, True, generator(1)), augment(images, 2, True, generator(2)))
