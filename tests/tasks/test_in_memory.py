import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from task_contract import DataTaskContract, collect, same
from training_toys import make_arrays, make_task

from autoprune.errors import DataError
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.tasks.task import DataTask, subset
from autoprune.training.device.runtime import Runtime


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
        with pytest.raises(DataError, match="no test examples; add a test split"):
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
            (
                make_arrays(9, 1),
                Arrays(make_arrays(6, 2).images.float(), make_arrays(6, 2).labels),
                "splits in the same way",
            ),
        ],
    )
    def test_rows_that_do_not_fit(self, train: Arrays, val: Arrays, message: str) -> None:
        with pytest.raises(DataError, match=message):
            ArrayTask("bad", train, val)


@given(count=st.integers(1, 500), limit=st.integers(1, 600))
def test_subsets_are_ascending_and_nested(count: int, limit: int) -> None:
    chosen = subset(count, limit)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(count, limit)
    assert set(chosen) <= set(subset(count, limit + 1))
