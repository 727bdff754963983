import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import write_images
from task_contract import DataTaskContract, collect, same

from autoprune.errors import DataError
from autoprune.tasks.builtin import build_task
from autoprune.tasks.in_memory import ArrayTask
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime

Maker = Callable[..., Path]


class TestSmallFolder(DataTaskContract):
    @pytest.fixture
    def any_task(self, tmp_path: Path) -> DataTask:
        return build_task(
            f"imagefolder:{write_images(tmp_path / 'pets', dict.fromkeys(('train', 'val', 'test'), (8, 9)))}"
        )

    def test_is_held_in_memory_at_its_own_size(self, any_task: DataTask) -> None:
        assert isinstance(any_task, ArrayTask)
        assert any_task.input_shape == (3, 8, 9)
        assert any_task.class_names == ("cat", "dog")
        assert any_task.sizes == {"train": 10, "val": 10, "test": 10}

    def test_test_images_are_opened_for_the_test_split_only(self, tmp_path: Path, runtime: Runtime) -> None:
        root = write_images(tmp_path, dict.fromkeys(("train", "val", "test"), (8, 8)))
        task = build_task(f"imagefolder:{root}")
        shutil.rmtree(root / "test")
        list(task.train_stream(4, 0, 0, runtime))
        with pytest.raises(DataError, match="cannot be read"):
            list(task.eval_batches("test", 4, runtime))

    def test_test_images_of_another_size(self, tmp_path: Path, runtime: Runtime) -> None:
        root = write_images(tmp_path, {"train": (8, 8), "val": (8, 8), "test": (9, 8)})
        with pytest.raises(DataError, match="one size"):
            list(build_task(f"imagefolder:{root}").eval_batches("test", 4, runtime))

    def test_without_test_images(self, tmp_path: Path) -> None:
        root = write_images(tmp_path, {"train": (8, 8), "val": (8, 8)})
        assert build_task(f"imagefolder:{root}").sizes["test"] == 0

    def test_grey_images_become_rgb(self, tmp_path: Path) -> None:
        from PIL import Image

        root = write_images(tmp_path, {"train": (8, 8), "val": (8, 8)})
        Image.new("L", (8, 8)).save(root / "train" / "cat" / "0.png")
        assert build_task(f"imagefolder:{root}").input_shape == (3, 8, 8)


class TestStreamedFolder(DataTaskContract):
    @pytest.fixture
    def any_task(self, tmp_path: Path) -> DataTask:
        root = write_images(tmp_path / "pets", dict.fromkeys(("train", "val", "test"), (70, 80)))
        return build_task(f"imagefolder:{root}", image_size=16, workers=0)

    def test_shape_and_replay(self, any_task: DataTask) -> None:
        assert any_task.input_shape == (3, 16, 16)
        assert any_task.replayable

    def test_workers_do_not_change_the_stream(self, any_task: DataTask, tmp_path: Path, runtime: Runtime) -> None:
        here = collect(any_task.train_stream(4, 1, 2, runtime))
        task = build_task(f"imagefolder:{tmp_path / 'pets'}", image_size=16, workers=1)
        assert same(here, collect(task.train_stream(4, 1, 2, runtime)))

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("content", [b"", b"no image"])
    def test_an_unreadable_image_is_named(self, tmp_path: Path, runtime: Runtime, workers: int, content: bytes) -> None:
        root = write_images(tmp_path, {"train": (70, 70), "val": (70, 70)})
        (root / "train" / "dog" / "3.png").write_bytes(content)
        task = build_task(f"imagefolder:{root}", image_size=16, workers=workers)
        with pytest.raises(DataError, match=r"the image '.*dog/3.png' cannot be read .*; replace or remove it"):
            list(task.train_stream(4, 0, 0, runtime))

    def test_an_image_cut_short_is_named(self, any_task: DataTask, tmp_path: Path, runtime: Runtime) -> None:
        file = tmp_path / "pets" / "val" / "cat" / "1.png"
        file.write_bytes(file.read_bytes()[:2000])
        with pytest.raises(DataError, match=r"cat/1\.png"):
            list(any_task.eval_batches("val", 4, runtime))

    def test_test_images_are_opened_for_the_test_split_only(
        self, any_task: DataTask, tmp_path: Path, runtime: Runtime
    ) -> None:
        shutil.rmtree(tmp_path / "pets" / "test")
        list(any_task.train_stream(4, 0, 0, runtime))
        list(any_task.eval_batches("val", 4, runtime))
        any_task.identity()
        with pytest.raises(DataError, match="cannot be read"):
            list(any_task.eval_batches("test", 4, runtime))

    def test_identity_follows_the_files(self, any_task: DataTask, tmp_path: Path) -> None:
        before = any_task.identity()
        file = tmp_path / "pets" / "train" / "cat" / "1.png"
        file.write_bytes(file.read_bytes() + b" ")
        assert any_task.identity() != before


class TestFolderFaults:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return write_images(tmp_path / "pets", {"train": (8, 8), "val": (8, 8)}, count=2)

    def refused(self, root: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            build_task(f"imagefolder:{root}")

    def test_no_folder(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none", "there is no image folder")

    def test_no_validation_folder(self, root: Path) -> None:
        shutil.rmtree(root / "val")
        self.refused(root, "there is no folder '.*val'; expected pets/train, pets/val")

    def test_one_class(self, root: Path) -> None:
        shutil.rmtree(root / "train" / "dog")
        self.refused(root, "one class folder only, 'cat'")

    def test_different_classes(self, root: Path) -> None:
        (root / "val" / "dog").rename(root / "val" / "wolf")
        self.refused(root, "different class folders: dog, wolf")

    def test_empty_split(self, root: Path) -> None:
        shutil.rmtree(root / "val")
        (root / "val").mkdir()
        self.refused(root, "val' holds no image in any class folder; known endings")

    def test_empty_class(self, root: Path) -> None:
        for file in (root / "val" / "dog").iterdir():
            file.rename(file.with_suffix(".txt"))
        self.refused(root, "dog' holds no image; fill it or remove it")

    def test_unreadable_small_image(self, root: Path) -> None:
        (root / "train" / "dog" / "1.png").write_bytes(gzip.compress(b"x"))
        self.refused(root, "dog/1.png' cannot be read")

    def test_hidden_files_are_not_there(self, root: Path) -> None:
        (root / "train" / ".thumbnails").mkdir()
        (root / "train" / "dog" / "._1.png").write_bytes(b"")
        assert build_task(f"imagefolder:{root}").sizes["train"] == 4

    @pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "deeper/.thumbnails"])
    def test_hidden_folders_inside_a_class_are_not_there(self, root: Path, hidden: str) -> None:
        for split in ("train", "val"):
            place = root / split / "dog" / hidden
            place.mkdir(parents=True)
            shutil.copy(root / split / "dog" / "0.png", place / "0-checkpoint.png")
        assert build_task(f"imagefolder:{root}").sizes["train"] == 4

    def test_a_folder_that_a_zip_left_is_no_class(self, root: Path) -> None:
        (root / "train" / "__MACOSX" / "dog").mkdir(parents=True)
        (root / "train" / "__MACOSX" / "dog" / "._0.png").write_bytes(b"x")
        assert build_task(f"imagefolder:{root}").class_names == ("cat", "dog")
