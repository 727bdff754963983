"""Deep images: 16 bits, whole numbers and floats keep their shades, or are refused with a word."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoprune.errors import DataError
from autoprune.tasks.builtin import build_task
from autoprune.tasks.read_image import Unreadable, read_image
from autoprune.training.device.runtime import Runtime

SHADES = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
DEEP = SHADES.astype(np.uint16) * 257


def read(file: Path) -> np.ndarray:
    image = read_image(file)
    assert isinstance(image, Image.Image), image.message()
    return np.asarray(image)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_are_scaled_by_their_range(name: str, tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / name)
    assert np.array_equal(read(tmp_path / name), np.repeat(SHADES[..., None], 3, axis=2))


def test_the_other_byte_order(tmp_path: Path) -> None:
    Image.fromarray(DEEP.astype(">u2")).save(tmp_path / "a.tiff")
    assert np.array_equal(read(tmp_path / "a.tiff")[..., 0], SHADES)


def test_twelve_bits_of_a_pgm(tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 16)
    (tmp_path / "a.pgm").write_bytes(b"P5 4 4 4095\n" + values.astype(">u2").tobytes())
    assert read(tmp_path / "a.pgm")[..., 0].flatten() == pytest.approx(values / 4095 * 255, abs=1)


def test_floats_from_zero_to_one(tmp_path: Path) -> None:
    Image.fromarray(SHADES.astype(np.float32) / 255).save(tmp_path / "a.tiff")
    assert np.array_equal(read(tmp_path / "a.tiff")[..., 0], SHADES)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (SHADES.astype(np.float32), "floats from 0 to 255, expected 0 to 1"),
        (SHADES.astype(np.float32) / 255 - 0.5, "floats from -0.5 to 0.5"),
        (np.full((8, 8), np.nan, np.float32), "floats from nan"),
        (SHADES.astype(np.int32) << 16, "whole numbers of 32 bits"),
    ],
)
def test_what_does_not_say_how_large_white_is(pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    image = read_image(tmp_path / "a.tiff")
    assert isinstance(image, Unreadable)
    assert message in image.message()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_as_before(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(SHADES).convert("RGB").convert(mode)
    image.save(tmp_path / "a.tiff")
    assert np.array_equal(read(tmp_path / "a.tiff"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("side", [8, 80], ids=["in memory", "streamed"])
def test_a_folder_of_deep_images_is_not_white(side: int, tmp_path: Path, runtime: Runtime) -> None:
    shades = np.resize(DEEP, (side, side))
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        for count in range(2):
            Image.fromarray(shades).save(tmp_path / place / f"{count}.png")
    task = build_task(f"imagefolder:{tmp_path}", image_size=16, workers=0)
    batch = next(iter(task.eval_batches("val", 4, runtime)))
    assert len(batch.images[0, 0].unique()) > 30


@pytest.mark.parametrize("side", [8, 80], ids=["in memory", "streamed"])
def test_a_folder_of_twelve_bits_in_sixteen_is_not_black(side: int, tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        for count in range(2):
            Image.fromarray(np.resize(DEEP // 17, (side, side))).save(tmp_path / place / f"{count}.png")
    with pytest.raises(DataError, match=r"train images .* go up to 3855 of 65535 only.* save 8 bits"):
        build_task(f"imagefolder:{tmp_path}", image_size=16, workers=0)
    Image.fromarray(np.resize(DEEP, (side, side))).save(tmp_path / "train" / "b" / "1.png")
    Image.fromarray(np.resize(DEEP, (side, side))).save(tmp_path / "val" / "b" / "1.png")
    assert build_task(f"imagefolder:{tmp_path}", image_size=16, workers=0).sizes["train"] == 4, "some are dark, not all"


def test_a_folder_of_one_colour_is_refused(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / place).mkdir(parents=True)
        for count in range(2):
            Image.new("L", (8, 8), 255).save(tmp_path / place / f"{count}.png")
    with pytest.raises(DataError, match="all of one colour: every number in them is 255"):
        build_task(f"imagefolder:{tmp_path}")
