import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from task_contract import DataTaskContract, collect
from torchvision.datasets import CIFAR10

from autoprune.errors import DataError
from autoprune.tasks import builtin as tasks
from autoprune.tasks.builtin import build_task, cifar10, digits
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


@pytest.fixture(scope="module")
def digits_task() -> DataTask:
    return build_task("digits")


class TestDigits(DataTaskContract):
    @pytest.fixture
    def any_task(self, digits_task: DataTask) -> DataTask:
        return digits_task

    def test_sizes_and_shape(self, any_task: DataTask) -> None:
        assert any_task.sizes == {"train": 1078, "val": 359, "test": 360}
        assert any_task.input_shape == (1, 32, 32)
        assert any_task.licence == "CC BY 4.0"

    def test_every_class_is_spread_evenly(self, any_task: DataTask, runtime: Runtime) -> None:
        for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            counts = torch.bincount(collect(any_task.eval_batches(split, 999, runtime)).labels)
            totals = torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
            assert (counts - share * totals).abs().max() < 1.5

    def test_no_image_is_in_two_splits(self, any_task: DataTask, runtime: Runtime) -> None:
        splits = [collect(any_task.eval_batches(split, 999, runtime)).images for split in any_task.sizes]
        assert len({image.numpy().tobytes() for images in splits for image in images}) == 1797

    def test_the_split_never_changes(self) -> None:
        images, labels = digits()._stored["train"]
        digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        assert digest == "011834fc09ad9dfe1e33d1a230749f074ae55b6bae871b5f29e8526be3c3e8c2"


@pytest.fixture(scope="module")
def tumours() -> DataTask:
    return build_task("breast-cancer")


class TestBreastCancer(DataTaskContract):
    @pytest.fixture
    def any_task(self, tumours: DataTask) -> DataTask:
        return tumours

    def test_sizes_and_shape(self, any_task: DataTask) -> None:
        assert any_task.sizes == {"train": 342, "val": 113, "test": 114}
        assert any_task.input_shape == (30,)
        assert any_task.class_names == ("malignant", "benign")
        assert any_task.licence == "CC BY 4.0"

    def test_every_class_is_spread_evenly(self, any_task: DataTask, runtime: Runtime) -> None:
        for split, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
            counts = torch.bincount(collect(any_task.eval_batches(split, 999, runtime)).labels)
            assert (counts - share * torch.tensor([212, 357])).abs().max() < 1.5

    def test_splits_are_disjoint_and_hold_the_rows_as_they_were_published(
        self, any_task: DataTask, runtime: Runtime
    ) -> None:
        """The oracle is scikit-learn's scaler, fitted on the rows that the training split says it holds."""
        from sklearn.datasets import load_breast_cancer
        from sklearn.preprocessing import StandardScaler

        raw, parts = (
            load_breast_cancer(),
            tasks._stratified(
                torch.from_numpy(load_breast_cancer().target), ("test", "train", "train", "train", "val")
            ),
        )
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(569))
        scaler = StandardScaler().fit(raw.data[parts["train"].numpy()])
        for split, index in parts.items():
            shown = collect(any_task.eval_batches(split, 999, runtime))
            expected = torch.from_numpy(scaler.transform(raw.data[index.numpy()])).float()
            assert torch.allclose(shown.images, expected, atol=1e-5)
            assert shown.labels.tolist() == raw.target[index.numpy()].tolist()

    def test_standardised_by_the_training_rows_and_by_no_others(self, any_task: DataTask, runtime: Runtime) -> None:
        train, val = (collect(any_task.eval_batches(split, 999, runtime)).images for split in ("train", "val"))
        assert torch.allclose(train.mean(0), torch.zeros(30), atol=1e-5)
        assert torch.allclose(train.std(0, correction=0), torch.ones(30), atol=1e-5)
        assert float(val.mean(0).abs().max()) > 1e-3

    def test_the_split_never_changes(self, any_task: DataTask) -> None:
        labels = any_task._stored["train"][1]  # type: ignore[attr-defined]
        digest = hashlib.sha256(labels.numpy().tobytes()).hexdigest()
        assert digest == "9e4df72486975debe76050ee0e0fbbf3cc52b07964dc7f2d78544498e4d80ba3"


@given(count=st.integers(1, 300), classes=st.integers(1, 5))
def test_stratified_parts_are_disjoint_complete_and_even(count: int, classes: int) -> None:
    labels = torch.arange(count) % classes
    parts = tasks._stratified(labels, ("a", "b", "b"))
    together = torch.cat(list(parts.values()))
    assert together.sort().values.tolist() == list(range(count))
    for name, share in (("a", 1 / 3), ("b", 2 / 3)):
        for label in range(classes):
            assert abs(int((labels[parts[name]] == label).sum()) - share * int((labels == label).sum())) <= 2


class TestCifar10:
    """A copy of the real layout with 20 images in each of its six files."""

    @pytest.fixture
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        content, rng = tmp_path / "made" / CIFAR10.base_folder, np.random.default_rng(0)
        content.mkdir(parents=True)

        def write(name: str, value: object) -> list[str]:
            (content / name).write_bytes(pickle.dumps(value))
            return [name, hashlib.md5((content / name).read_bytes()).hexdigest()]

        def batch(name: str) -> list[str]:
            images = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
            return write(name, {"data": images, "labels": [i % 10 for i in range(20)]})

        monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}") for i in range(1, 6)])
        monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch")])
        key, (file, md5) = "label_names", write("batches.meta", {"label_names": [f"kind {i}" for i in range(10)]})
        monkeypatch.setattr(CIFAR10, "meta", {"filename": file, "key": key, "md5": md5})
        monkeypatch.setattr(tasks, "_CIFAR10_TEST_SIZE", 20)
        return content

    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError("no route to host")

        monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", refuse)

    @pytest.mark.usefixtures("offline")
    def test_from_a_local_folder(self, archive: Path, runtime: Runtime) -> None:
        task = cifar10(str(archive.parent))
        assert task.sizes == {"train": 90, "val": 10, "test": 20}
        assert task.input_shape == (3, 32, 32)
        assert task.class_names[3] == "kind 3"
        assert torch.bincount(collect(task.eval_batches("val", 99, runtime)).labels).tolist() == [1] * 10
        assert len(collect(task.eval_batches("test", 99, runtime))) == 20

    @pytest.mark.usefixtures("offline")
    def test_from_a_local_archive(self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = tmp_path / "packed"
        root.mkdir()
        with tarfile.open(root / CIFAR10.filename, "w:gz") as packed:
            packed.add(archive, CIFAR10.base_folder)
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((root / CIFAR10.filename).read_bytes()).hexdigest())
        assert build_task("cifar10", root=str(root)).sizes["train"] == 90

    @pytest.mark.usefixtures("offline")
    def test_the_test_file_is_read_for_the_test_split_only(
        self, archive: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[bool] = []
        read = tasks._read_cifar10

        def spy(folder: Path, train: bool) -> object:
            asked.append(train)
            return read(folder, train)

        monkeypatch.setattr(tasks, "_read_cifar10", spy)
        task = cifar10(str(archive.parent))
        list(task.train_stream(10, 0, 0, runtime))
        list(task.eval_batches("val", 10, runtime))
        assert asked == [True]
        list(task.eval_batches("test", 10, runtime))
        assert asked == [True, False]

    @pytest.mark.usefixtures("offline")
    def test_without_a_connection_says_where_to_put_it(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"could not be downloaded.*cifar-10-python.tar.gz.*data.root"):
            cifar10(str(tmp_path / "empty"))

    def test_a_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="could not be downloaded"):
            cifar10(str(tmp_path / "file"))
