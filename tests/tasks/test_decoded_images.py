"""Small images of a folder are decoded once, and again when one of them changes."""

import os
from pathlib import Path

import pytest
import torch
from image_files import write_images

import autoprune.tasks.image_folder
from autoprune.core.cache_folder import cache_folder
from autoprune.errors import DataError
from autoprune.tasks import decoded_images
from autoprune.tasks.builtin import build_task
from autoprune.tasks.read_image import read_image
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime

Decoded = list[Path]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of images whose training split, of 10, is worth storing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded_images, "FEWEST", 10)
    write_images(tmp_path / "pets", {"train": (8, 9)}, 5)
    return write_images(tmp_path / "pets", {"val": (8, 9)}, 2)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Decoded:
    """Return the list of images that are decoded from now on."""
    files: Decoded = []

    def noted(file: Path) -> object:
        files.append(file)
        return read_image(file)

    monkeypatch.setattr(autoprune.tasks.image_folder, "read_image", noted)
    return files


def read(root: Path) -> DataTask:
    return build_task(f"imagefolder:{root}")


def stored() -> list[Path]:
    return sorted((cache_folder() / "images").glob("*"))


def test_the_next_process_decodes_one_image_of_a_large_split(root: Path, decoded: Decoded, runtime: Runtime) -> None:
    first = read(root)
    assert len(decoded) == 11 + 5
    decoded.clear()
    second = read(root)
    assert [file.name for file in decoded] == ["0.png", *["0.png", "0.png", "1.png", "0.png", "1.png"]]
    assert len(stored()) == 1
    assert first.identity() == second.identity()
    for one, other in zip(first.train_stream(4, 0, 0, runtime), second.train_stream(4, 0, 0, runtime), strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("change", ["content", "added", "renamed"])
def test_a_changed_folder_is_decoded_anew(root: Path, decoded: Decoded, change: str) -> None:
    before = read(root).identity()
    file = root / "train" / "cat" / "1.png"
    if change == "content":
        state = file.stat()
        file.write_bytes((root / "train" / "dog" / "1.png").read_bytes())
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "added":
        (root / "train" / "cat" / "9.png").write_bytes(file.read_bytes())
    else:
        file.rename(root / "train" / "dog" / "7.png")
    decoded.clear()
    assert read(root).identity() != before
    assert len(decoded) >= 15


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY half a header", b"other bytes"])
def test_a_damaged_file_is_made_again(root: Path, decoded: Decoded, damage: bytes) -> None:
    before = read(root).identity()
    (file,) = stored()
    whole = file.read_bytes()
    for content in (damage, whole[: len(whole) // 2]):
        file.write_bytes(content)
        decoded.clear()
        assert read(root).identity() == before
        assert len(decoded) == 16
        assert file.read_bytes() == whole


def test_what_cannot_be_stored_is_decoded_each_time(root: Path, decoded: Decoded) -> None:
    cache_folder().parent.mkdir()
    cache_folder().write_bytes(b"a file, where a folder should be")
    before = read(root).identity()
    assert read(root).identity() == before
    assert len(decoded) == 32


def test_without_a_home_images_are_decoded_each_time(
    root: Path, decoded: Decoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert read(root).identity() == read(root).identity()
    assert len(decoded) == 32


def test_a_file_that_is_gone_is_left_to_the_decoder(root: Path) -> None:
    gone = root / "train" / "cat" / "no.png"
    files = [*sorted((root / "train").rglob("*.png")), gone]
    assert decoded_images.decoded_once(files, lambda: None) is None
    assert stored() == []


def test_images_of_several_sizes_and_unreadable_ones_store_nothing(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (10, 10)).save(root / "train" / "dog" / "4.png")
    read(root)
    assert stored() == []
    (root / "train" / "dog" / "4.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"4\.png"):
        read(root)
    assert stored() == []


def test_changes_of_the_pixels_stay_in_the_process(root: Path) -> None:
    read(root)
    (file,) = stored()
    before = file.read_bytes()
    files = sorted((root / "train").rglob("*.png"))
    images = decoded_images.decoded_once(files, _never)
    assert images is not None
    images.zero_()
    assert file.read_bytes() == before


def test_what_no_process_read_for_a_month_goes_with_the_next(root: Path) -> None:
    read(root)
    (old,) = stored()
    os.utime(old, (0, 0))
    read(root)
    assert old.stat().st_mtime > 0
    os.utime(old, (0, 0))
    (root / "train" / "cat" / "9.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    read(root)
    assert len(stored()) == 1
    assert stored() != [old]


def test_few_images_are_not_stored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_images, "FEWEST", 11)
    read(root)
    assert stored() == []


@pytest.mark.parametrize(("named", "expected"), [("", "home/.cache"), ("not/absolute", "home/.cache"), ("/x", "/x")])
def test_where_the_cache_is(named: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    assert cache_folder() == tmp_path / expected / "autoprune"


def _never() -> torch.Tensor:
    raise AssertionError("it is stored")
