import gzip
import hashlib
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import CIFAR10
from training_toys import make_arrays, make_task

from autoprune.errors import DataError, UnknownNameError, UsageError
from autoprune.tasks import builtin as tasks
from autoprune.tasks.builtin import build_task, cifar10, digits
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.task import Batch, DataTask, steps_per_epoch, subset
from autoprune.training.device.runtime import Runtime


def collect(batches: object) -> Batch:
    """Return all batches as one."""
    listed = list(batches)  # type: ignore[call-overload]
    return Batch(torch.cat([b.images for b in listed]), torch.cat([b.labels for b in listed]))


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


class DataTaskContract:
    """What every task keeps; subclass it and define the fixture ``any_task``.

    Steps for adding a task: subclass, return a small instance from ``any_task``, run.
    """

    def test_fits_the_protocol(self, any_task: DataTask) -> None:
        assert isinstance(any_task, DataTask)
        assert set(any_task.sizes) == {"train", "val", "test"}
        assert len(any_task.class_names) == any_task.num_classes
        assert isinstance(any_task.description + any_task.licence, str)

    @pytest.mark.parametrize("batch_size", [2, 4, 7, 1000])
    def test_an_epoch_has_the_steps_it_says_and_no_batch_of_one(
        self, any_task: DataTask, runtime: Runtime, batch_size: int
    ) -> None:
        sizes = [len(batch) for batch in any_task.train_stream(batch_size, 0, 0, runtime)]
        assert len(sizes) == steps_per_epoch(any_task.sizes["train"], batch_size)
        assert min(sizes) > 1
        assert sum(sizes) >= any_task.sizes["train"] - 1

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_batches_are_float_placed_and_labelled(self, any_task: DataTask, channels_last: bool) -> None:
        runtime = Runtime(channels_last=channels_last)
        streams = any_task.train_stream(4, 0, 0, runtime), any_task.eval_batches("val", 4, runtime)
        for batch in (next(iter(stream)) for stream in streams):
            assert batch.images.dtype == torch.float32
            assert batch.labels.dtype == torch.int64
            assert batch.images.shape[1:] == any_task.input_shape
            assert batch.images.is_contiguous(memory_format=runtime.format_of(batch.images))

    def test_a_stream_depends_on_its_arguments_alone(self, any_task: DataTask, runtime: Runtime) -> None:
        def stream(epoch: int, seed: int) -> Batch:
            return collect(any_task.train_stream(4, epoch, seed, runtime))

        assert same(stream(0, 0), stream(0, 0))
        assert not same(stream(0, 0), stream(1, 0))
        assert not same(stream(0, 0), stream(0, 1))

    def test_evaluation_repeats_and_counts(self, any_task: DataTask, runtime: Runtime) -> None:
        one = collect(any_task.eval_batches("val", 4, runtime))
        assert len(one) == any_task.sizes["val"]
        assert same(one, collect(any_task.eval_batches("val", 3, runtime)))

    def test_limit(self, any_task: DataTask, runtime: Runtime) -> None:
        few = collect(any_task.eval_batches("val", 2, runtime, limit=3))
        assert len(few) == 3
        assert same(few, collect(any_task.eval_batches("val", 3, runtime, limit=3)))
        everything = collect(any_task.eval_batches("val", 2, runtime, limit=10**6))
        assert len(everything) == any_task.sizes["val"]

    def test_what_a_network_does_to_a_batch_stays_there(self, any_task: DataTask, runtime: Runtime) -> None:
        before = collect(any_task.eval_batches("val", 4, runtime))
        for batch in any_task.eval_batches("val", 4, runtime):
            batch.images.zero_()
        for batch in any_task.train_stream(4, 0, 0, runtime):
            batch.images.zero_()
        assert same(before, collect(any_task.eval_batches("val", 4, runtime)))

    def test_identity_is_stable(self, any_task: DataTask) -> None:
        assert any_task.identity() == any_task.identity()

    def test_unknown_split(self, any_task: DataTask, runtime: Runtime) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'train'"):
            next(iter(any_task.eval_batches("trian", 4, runtime)))


class TestArrayTask(DataTaskContract):
    @pytest.fixture
    def any_task(self) -> DataTask:
        return make_task(description="toy")

    def test_normalised_to_mean_zero_and_deviation_one(self, runtime: Runtime) -> None:
        images = collect(make_task(padding=0).eval_batches("train", 10, runtime)).images
        assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
        assert torch.allclose(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)

    def test_evaluating_on_train_shows_it_uncropped(self, runtime: Runtime) -> None:
        plain = collect(make_task(padding=0, flip=False).eval_batches("train", 10, runtime))
        assert same(plain, collect(make_task(padding=3, flip=True).eval_batches("train", 10, runtime)))

    def test_training_shows_every_image_once(self, runtime: Runtime) -> None:
        task = make_task(padding=0, flip=False)
        trained = collect(task.train_stream(16, 0, 0, runtime)).images.flatten(1).sum(1).sort().values
        shown = collect(task.eval_batches("train", 16, runtime)).images.flatten(1).sum(1).sort().values
        assert torch.allclose(trained, shown, atol=1e-4)

    def test_float_images_are_handed_over_as_they_are(self, runtime: Runtime) -> None:
        prepared = Arrays(torch.rand(6, 1, 4, 4, generator=torch.Generator()), torch.tensor([0, 1] * 3))
        task = ArrayTask("floats", prepared, prepared, padding=2, flip=True)
        assert torch.equal(collect(task.eval_batches("val", 4, runtime)).images, prepared.images)
        trained = collect(task.train_stream(6, 0, 0, runtime)).images
        assert torch.equal(trained.flatten(1).sum(1).sort().values, prepared.images.flatten(1).sum(1).sort().values)

    def test_test_images_are_read_by_their_own_name_only(self, runtime: Runtime) -> None:
        opened = []

        def open_test() -> Arrays:
            opened.append(True)
            return make_arrays(5, 3)

        task = ArrayTask("sealed", make_arrays(10, 1), make_arrays(6, 2), open_test, 5)
        list(task.train_stream(4, 0, 0, runtime))
        list(task.eval_batches("train", 4, runtime))
        list(task.eval_batches("val", 4, runtime))
        task.identity()
        assert not opened
        assert len(collect(task.eval_batches("test", 4, runtime))) == 5
        list(task.eval_batches("test", 4, runtime))
        assert len(opened) == 1

    def test_no_test_images(self, runtime: Runtime) -> None:
        task = ArrayTask("two", make_arrays(10, 1), make_arrays(6, 2))
        assert task.sizes["test"] == 0
        with pytest.raises(DataError, match="no test images; add a test split"):
            list(task.eval_batches("test", 4, runtime))

    def test_identity_follows_content_and_augmentation(self) -> None:
        identities = {
            make_task().identity(),
            make_task(train=71).identity(),
            make_task(padding=2).identity(),
            make_task(flip=False).identity(),
            make_task(val=31).identity(),
            ArrayTask("toy", make_arrays(70, 9), make_arrays(30, 2)).identity(),
        }
        assert len(identities) == 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"val": make_arrays(0, 2)}, "the val split of bad is empty"),
            ({"train": make_arrays(1, 2), "class_names": ["a", "b", "c"]}, "1 training image"),
            ({"val": make_arrays(6, 2, side=9)}, r"\(3, 9, 9\), and train images \(3, 8, 8\)"),
            ({"val": make_arrays(8, 2, classes=4)}, "scale all splits to one size"),
            ({"val": Arrays(make_arrays(6, 2).images, torch.full((6,), 3))}, "from 3 to 3; expected 0 to 2"),
            ({"class_names": ["a", "b"]}, "train labels of bad go from 0 to 2"),
            ({"train": make_arrays(9, 1, classes=1), "val": make_arrays(9, 1, classes=1)}, "two or more"),
            ({"mean": [0.5, 0.5]}, "images of 3 channels"),
            ({"std": [0.5, 0.0, 0.5]}, "one positive std"),
            ({"padding": -1}, "padding of -1"),
        ],
    )
    def test_splits_that_do_not_fit(self, change: dict[str, object], message: str) -> None:
        arguments = {"train": make_arrays(10, 1), "val": make_arrays(6, 2), **change}
        with pytest.raises(DataError, match=message):
            ArrayTask("bad", **arguments)  # type: ignore[arg-type]

    def test_a_test_split_of_another_size_than_said(self, runtime: Runtime) -> None:
        task = ArrayTask("liar", make_arrays(10, 1), make_arrays(6, 2), lambda: make_arrays(4, 3), 5)
        with pytest.raises(DataError, match="5 test images and read 4"):
            list(task.eval_batches("test", 4, runtime))


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


class TestRows(DataTaskContract):
    @pytest.fixture
    def any_task(self) -> DataTask:
        return ArrayTask("rows", make_rows(11, (6,)), make_rows(7, (6,)), lambda: make_rows(5, (6,)), 5)


class TestSequences(DataTaskContract):
    @pytest.fixture
    def any_task(self) -> DataTask:
        return ArrayTask("sequences", make_rows(11, (4, 6)), make_rows(7, (4, 6)), lambda: make_rows(5, (4, 6)), 5)


def make_rows(count: int, shape: tuple[int, ...]) -> Arrays:
    return Arrays(torch.randn(count, *shape, generator=torch.Generator().manual_seed(count)), torch.arange(count) % 2)


class TestOtherThanImages:
    @pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4, 5)])
    def test_are_shuffled_and_otherwise_handed_over_as_they_are(self, shape: tuple[int, ...], runtime: Runtime) -> None:
        given = make_rows(12, shape)
        task = ArrayTask("rows", given, make_rows(5, shape), padding=3, flip=True)
        assert task.input_shape == shape
        shown, trained = collect(task.eval_batches("train", 5, runtime)), collect(task.train_stream(5, 0, 0, runtime))
        assert torch.equal(shown.images, given.images)
        assert not torch.equal(trained.images, given.images)
        for row, label in zip(trained.images, trained.labels, strict=True):
            (where,) = [i for i, one in enumerate(given.images) if torch.equal(one, row)]
            assert given.labels[where] == label

    def test_an_epoch_shows_every_row_once(self, runtime: Runtime) -> None:
        task = ArrayTask("rows", make_rows(12, (6,)), make_rows(5, (6,)))
        rows = [tuple(row.tolist()) for row in collect(task.train_stream(5, 3, 1, runtime)).images]
        assert len(set(rows)) == 12

    def test_identity_follows_the_rows(self) -> None:
        one, again, other = (ArrayTask("x", make_rows(n, (6,)), make_rows(5, (6,))) for n in (12, 12, 13))
        assert one.identity() == again.identity() != other.identity()

    @pytest.mark.parametrize(
        ("train", "val", "message"),
        [
            (make_rows(9, (6,)), make_rows(4, (7,)), r"\(7,\), and train images \(6,\), that is rows of 6 features"),
            (make_rows(9, (4, 6)), make_rows(4, (6,)), "sequences of 4 rows of 6 features; scale all splits to one"),
            (make_rows(9, ()), make_rows(4, ()), r"shape \(9,\) and type torch.float32 were given; expected \(N, C"),
            (Arrays(torch.ones(4, 6).byte(), torch.arange(4) % 2), make_rows(4, (6,)), r"or other examples \(N, …\)"),
            (make_arrays(9, 1), Arrays(make_arrays(6, 2).images.float(), make_arrays(6, 2).labels), "splits alike"),
        ],
    )
    def test_rows_that_do_not_fit(self, train: Arrays, val: Arrays, message: str) -> None:
        with pytest.raises(DataError, match=message):
            ArrayTask("bad", train, val)


@given(count=st.integers(1, 300), classes=st.integers(1, 5))
def test_stratified_parts_are_disjoint_complete_and_even(count: int, classes: int) -> None:
    labels = torch.arange(count) % classes
    parts = tasks._stratified(labels, ("a", "b", "b"))
    together = torch.cat(list(parts.values()))
    assert together.sort().values.tolist() == list(range(count))
    for name, share in (("a", 1 / 3), ("b", 2 / 3)):
        for label in range(classes):
            assert abs(int((labels[parts[name]] == label).sum()) - share * int((labels == label).sum())) <= 2


@given(count=st.integers(1, 500), limit=st.integers(1, 600))
def test_subsets_are_ascending_and_nested(count: int, limit: int) -> None:
    chosen = subset(count, limit)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, limit)
    assert set(chosen) <= set(subset(count, limit + 1))


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


class TestUserFunctions:
    def build(self, folder: Path, body: str, **options: object) -> DataTask:
        file = folder / f"data_{hashlib.md5(body.encode()).hexdigest()}.py"
        head = "import numpy as np, torch\nfrom training_toys import *\nA = make_arrays\n"
        head += "def P(a): return (a.images, a.labels)\n"
        file.write_text(head + body)
        return build_task(f"{file}:fn", **options)  # type: ignore[arg-type]

    def test_a_task_is_taken_as_it_is(self, tmp_path: Path) -> None:
        assert self.build(tmp_path, "def fn(): return make_task()").name == "toy"

    def test_a_dictionary(self, tmp_path: Path, runtime: Runtime) -> None:
        splits = "'train': P(A(9, 1)), 'val': P(A(6, 2)), 'test': P(A(3, 3))"
        body = f"def fn(): return {{{splits}, 'class_names': ['a', 'b', 'c']}}"
        task = self.build(tmp_path, body)
        assert task.sizes == {"train": 9, "val": 6, "test": 3}
        assert task.class_names == ("a", "b", "c")
        assert len(collect(task.eval_batches("test", 2, runtime))) == 3

    def test_a_tuple_of_two(self, tmp_path: Path) -> None:
        assert self.build(tmp_path, "def fn(): return P(A(9, 1)), P(A(6, 2))").sizes["test"] == 0

    def test_numpy_floats(self, tmp_path: Path, runtime: Runtime) -> None:
        body = "def fn():\n x = (np.ones((4, 1, 5, 5)), np.array([0, 1, 0, 1]))\n return x, x"
        images = collect(self.build(tmp_path, body).train_stream(4, 0, 0, runtime)).images
        assert images.dtype == torch.float32
        assert bool((images == 1).all())

    @pytest.mark.parametrize(
        ("shape", "shown"), [("(6, 5)", (5,)), ("(6, 7, 5)", (7, 5)), ("(6, 2, 2, 2, 2)", (2,) * 4)]
    )
    def test_floats_need_not_be_images(self, tmp_path: Path, shape: str, shown: tuple[int, ...]) -> None:
        body = f"def fn():\n x = (np.random.RandomState(0).rand(*{shape}), np.arange(6) % 2)\n return x, x"
        task = self.build(tmp_path, body)
        assert task.input_shape == shown
        assert collect(task.train_stream(3, 0, 0, Runtime())).images.dtype == torch.float32

    def test_is_given_what_it_accepts(self, tmp_path: Path) -> None:
        body = "def fn(root, image_size):\n assert root == 'here'\n"
        body += " return P(A(9, 1, side=image_size)), P(A(6, 2, side=image_size))"
        assert self.build(tmp_path, body, root="here", image_size=12).input_shape == (3, 12, 12)

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ("def fn(): return 3", "returned int; expected a DataTask"),
            ("def fn(): return ArrayTask", "returned type"),
            ("def fn(): return {'train': P(A(9, 1))}", "missing: val"),
            ("def fn(): return {'train': P(A(9, 1)), 'valid': P(A(9, 1))}", "unknown: valid; missing: val"),
            ("def fn(): return P(A(9, 1)), 5", "val is int; expected \\(images, labels\\)"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images, 'abc')", "val labels are str"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images[0], A(6, 2).labels)", "expected \\(N, C, H, W\\)"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images.int(), A(6, 2).labels)", "torch.int32; expected"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images, A(5, 2).labels)", "shape \\(5,\\).*expected \\(6,\\)"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images, A(6, 2).labels.float())", "whole numbers"),
            ("def fn(): return P(A(9, 1)), P(A(0, 2))", "val is empty"),
            ("def fn(): return P(A(0, 1)), P(A(6, 2))", "train is empty"),
            ("def fn(): return P(A(9, 1)), (A(6, 2).images / 0, A(6, 2).labels)", "NaN or infinite"),
            ("def fn(): return P(A(9, 1)), ([[1], [2, 3]], [0, 1])", "cannot be made a tensor"),
            (
                "def fn(): return ([1.0, 2.0], [0, 1]), ([[1.0]], [0])",
                "have shape \\(2,\\).*such as \\(N, F\\)",
            ),
            ("def fn(): return ([[1, 2], [3, 4]], [0, 1]), ([[1, 2]], [0])", "torch.int64; expected .*or floats"),
            ("def fn(): return ([[1.0], [2.0]], [0, 1]), ([[1.0, 2.0]], [0])", "rows of 1 features; scale all splits"),
            ("def fn(): return {'train': P(A(9, 1)), 'val': P(A(6, 2)), 'padding': 'x'}", "look at the options"),
            ("def fn(): raise RuntimeError('disk on fire')", "raised RuntimeError: disk on fire"),
            ("def fn(depth): pass", "requires the argument depth"),
            ("fn = 3", "is int; expected a function"),
        ],
    )
    def test_faults(self, tmp_path: Path, body: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            self.build(tmp_path, body)

    def test_a_task_that_lacks_a_part_says_which(self, tmp_path: Path) -> None:
        body = "class T:\n sizes = {}\n def train_stream(self): pass\ndef fn(): return T()"
        with pytest.raises(DataError, match="returned T without eval_batches"):
            self.build(tmp_path, body)

    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
            build_task("digit")
        with pytest.raises(UsageError, match="there is no file"):
            build_task("nowhere.py:fn")


Maker = Callable[..., Path]


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
