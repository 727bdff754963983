import hashlib
from pathlib import Path

import pytest
import torch
from task_contract import collect

from autoprune.errors import DataError, UnknownNameError, UsageError
from autoprune.tasks.builtin import build_task
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


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
            ("def fn(): return 3", "returned int; expected a Task"),
            ("def fn(): return ArrayTask", "returned the type ArrayTask"),
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
            ("def fn(): return P(A(9, 1)), ([[1], [2, 3]], [0, 1])", "cannot be converted to a tensor"),
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
        with pytest.raises(DataError, match=r"returned T without name, .*eval_batches, identity"):
            self.build(tmp_path, body)

    def test_unknown_names(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'digits'"):
            build_task("digit")
        with pytest.raises(UsageError, match="there is no file"):
            build_task("nowhere.py:fn")
