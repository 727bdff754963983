"""Arrays that look right and are not: channels last, labels from 1 or with gaps, numbers that are not scaled."""

from typing import Any

import numpy as np
import pytest
import torch

from autoprune.errors import DataError
from autoprune.tasks.from_user import as_task
from autoprune.tasks.in_memory import Arrays, ArrayTask
from autoprune.training.device.runtime import Runtime


def noise(*shape: int, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape)


def labels(count: int = 12, classes: int = 3) -> np.ndarray:
    return np.arange(count) % classes


def made(images: Any, answers: Any = None) -> ArrayTask:
    split = (images, labels(len(images)) if answers is None else answers)
    task = as_task((split, split), "mine.py:fn")
    assert isinstance(task, ArrayTask)
    return task


class TestChannelsLast:
    @pytest.mark.parametrize("shape", [(12, 16, 16, 3), (12, 28, 28, 1), (12, 24, 48, 4), (12, 9, 5, 3)])
    def test_pixels(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"channels last; expected channels first.*transpose\(0, 3, 1, 2\)"):
            made(noise(*shape).astype(np.uint8))

    @pytest.mark.parametrize("shape", [(12, 16, 16, 3), (12, 28, 28, 1)])
    @pytest.mark.parametrize("convert", [torch.from_numpy, lambda array: array], ids=["tensor", "NumPy"])
    def test_floats(self, shape: tuple[int, ...], convert: Any) -> None:
        with pytest.raises(DataError, match=r"permute\(0, 3, 1, 2\)"):
            made(convert(noise(*shape) / 255))

    def test_a_task_made_by_hand(self) -> None:
        split = Arrays(torch.from_numpy(noise(12, 16, 16, 3)).to(torch.uint8), torch.from_numpy(labels()))
        with pytest.raises(DataError, match="channels last"):
            ArrayTask("mine", split, split)

    @pytest.mark.parametrize("shape", [(12, 3, 16, 16), (12, 3, 16, 3), (12, 64, 1000, 1), (12, 5, 9, 3)])
    def test_floats_of_other_forms_stay_as_they_are(self, shape: tuple[int, ...]) -> None:
        assert made(noise(*shape) / 255).input_shape == shape[1:]


class TestLabels:
    @pytest.mark.parametrize(("first", "classes"), [(1, 3), (2, 4)])
    def test_that_begin_later_are_refused(self, first: int, classes: int) -> None:
        with pytest.raises(DataError, match=f"go from {first} to .*subtract {first} from the labels.*class_names"):
            made(noise(12, 5) / 255, labels(12, classes) + first)

    def test_named_classes_may_begin_later(self) -> None:
        split = (noise(12, 5) / 255, labels() + 1)
        task = as_task({"train": split, "val": split, "class_names": ("void", "a", "b", "c")}, "mine.py:fn")
        assert task.num_classes == 4
        assert "label 0)" in task.notes[0]  # type: ignore[attr-defined]

    def test_gaps_are_said(self) -> None:
        task = made(noise(12, 5) / 255, labels() * 4)
        assert task.num_classes == 9
        assert task.notes[0].startswith("6 of the 9 classes have no training example (labels 1, 2, 3, 5, 6, …)")

    def test_nothing_is_said_of_good_ones(self) -> None:
        assert made(noise(12, 5) / 255).notes == ()

    @pytest.mark.parametrize(
        ("given", "hint"),
        [
            (np.eye(3)[labels()].astype(int), r"labels.argmax\(1\)"),
            (labels()[:, None], r"labels\[:, 0\]"),
            (labels().astype(float), "Cast whole numbers"),
            (labels().astype(str), r"train labels are strings.* np.unique\(labels, return_inverse=True\)"),
            (labels() - 1, "go from -1 to 1; expected 0 to 1, .* add 1 to the labels of every split, or leave"),
        ],
    )
    def test_of_another_form_get_a_hint(self, given: np.ndarray, hint: str) -> None:
        with pytest.raises(DataError, match=hint):
            made(noise(12, 5) / 255, given)


class TestNumbers:
    def test_sixteen_bits_are_scaled_and_normalised(self, runtime: Runtime) -> None:
        shades = noise(12, 3, 8, 8)
        deep, plain = made((shades * 257).astype(np.uint16)), made(shades.astype(np.uint8))
        one, other = (next(iter(task.eval_batches("val", 12, runtime))).images for task in (deep, plain))
        assert torch.equal(one, other)

    def test_a_tensor_of_sixteen_bits_and_the_other_byte_order(self) -> None:
        shades = noise(12, 3, 8, 8) * 257
        as_tensor = made(torch.from_numpy(shades.astype(np.uint16)))
        assert as_tensor.identity() == made(shades.astype(">u2")).identity()

    @pytest.mark.parametrize(("high", "advice"), [(256, "cast them to uint8"), (4096, "by 255 / 409")])
    def test_sixteen_bits_that_are_hardly_used(self, high: int, advice: str) -> None:
        with pytest.raises(DataError, match=f"of 65535 only.*nearly black; .*{advice}"):
            made(noise(12, 3, 8, 8, high=high).astype(np.uint16))

    @pytest.mark.parametrize(
        ("images", "hint"),
        [
            (noise(12, 3, 8, 8), "cast them"),
            (noise(12, 8, 8).astype(np.uint8), r"images\[:, None\]"),
        ],
    )
    def test_other_types_get_a_hint(self, images: np.ndarray, hint: str) -> None:
        with pytest.raises(DataError, match=hint):
            made(images)

    @pytest.mark.parametrize(
        ("images", "said"),
        [
            (noise(12, 3, 8, 8).astype(np.float32), "whole numbers from 0 to 25"),
            (noise(12, 5) * 9.5, "mean 0 and standard deviation 1"),
            (np.ones((12, 5)), "one number only, 1;"),
        ],
    )
    def test_floats_that_nobody_scaled_are_said(self, images: np.ndarray, said: str) -> None:
        assert said in made(images).notes[0]

    @pytest.mark.parametrize("images", [noise(12, 3, 8, 8) / 255, noise(12, 3, 8, 8) / 64 - 2, noise(12, 5) / 128 - 1])
    def test_scaled_ones_are_not(self, images: np.ndarray) -> None:
        assert made(images).notes == ()

    def test_one_colour_is_refused(self) -> None:
        with pytest.raises(DataError, match="all of one colour: every number in them is 255"):
            made(np.full((12, 3, 8, 8), 255, np.uint8))
