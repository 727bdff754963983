"""What every task has to do, as a test class to subclass."""

from __future__ import annotations

import pytest
import torch

from autoprune.errors import UnknownNameError
from autoprune.tasks.classification import Classification, LabelledBatch
from autoprune.tasks.task import DataTask, steps_per_epoch
from autoprune.training.device.runtime import Runtime


def collect(batches: object) -> LabelledBatch:
    """Return all batches as one."""
    listed = list(batches)  # type: ignore[call-overload]
    return LabelledBatch(torch.cat([b.images for b in listed]), torch.cat([b.labels for b in listed]))


def same(one: LabelledBatch, other: LabelledBatch) -> bool:
    return torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


class DataTaskContract:
    """What every task keeps; subclass it and define the fixture ``any_task``.

    Steps for adding a task: subclass, return a small instance from ``any_task``, run.
    """

    def test_fits_the_protocol(self, any_task: Classification) -> None:
        assert isinstance(any_task, DataTask)
        assert set(any_task.sizes) == {"train", "val", "test"}
        assert len(any_task.class_names) == any_task.num_classes
        assert isinstance(any_task.description + any_task.licence, str)

    @pytest.mark.parametrize("batch_size", [2, 4, 7, 1000])
    def test_an_epoch_has_the_steps_it_says_and_no_batch_of_one(
        self, any_task: Classification, runtime: Runtime, batch_size: int
    ) -> None:
        sizes = [len(batch) for batch in any_task.train_stream(batch_size, 0, 0, runtime)]
        assert len(sizes) == steps_per_epoch(any_task.sizes["train"], batch_size)
        assert min(sizes) > 1
        assert sum(sizes) >= any_task.sizes["train"] - 1

    @pytest.mark.parametrize("channels_last", [True, False])
    def test_batches_are_float_placed_and_labelled(self, any_task: Classification, channels_last: bool) -> None:
        runtime = Runtime(channels_last=channels_last)
        streams = any_task.train_stream(4, 0, 0, runtime), any_task.eval_batches("val", 4, runtime)
        for batch in (next(iter(stream)) for stream in streams):
            assert batch.images.dtype == torch.float32
            assert batch.labels.dtype == torch.int64
            assert batch.images.shape[1:] == any_task.input_shape
            assert batch.images.is_contiguous(memory_format=runtime.format_of(batch.images))

    def test_a_stream_depends_on_its_arguments_alone(self, any_task: Classification, runtime: Runtime) -> None:
        def stream(epoch: int, seed: int) -> LabelledBatch:
            return collect(any_task.train_stream(4, epoch, seed, runtime))

        assert same(stream(0, 0), stream(0, 0))
        assert not same(stream(0, 0), stream(1, 0))
        assert not same(stream(0, 0), stream(0, 1))

    def test_evaluation_repeats_and_counts(self, any_task: Classification, runtime: Runtime) -> None:
        one = collect(any_task.eval_batches("val", 4, runtime))
        assert len(one) == any_task.sizes["val"]
        assert same(one, collect(any_task.eval_batches("val", 3, runtime)))

    def test_limit(self, any_task: Classification, runtime: Runtime) -> None:
        few = collect(any_task.eval_batches("val", 2, runtime, limit=3))
        assert len(few) == 3
        assert same(few, collect(any_task.eval_batches("val", 3, runtime, limit=3)))
        everything = collect(any_task.eval_batches("val", 2, runtime, limit=10**6))
        assert len(everything) == any_task.sizes["val"]

    def test_what_a_network_does_to_a_batch_stays_there(self, any_task: Classification, runtime: Runtime) -> None:
        before = collect(any_task.eval_batches("val", 4, runtime))
        for batch in any_task.eval_batches("val", 4, runtime):
            batch.images.zero_()
        for batch in any_task.train_stream(4, 0, 0, runtime):
            batch.images.zero_()
        assert same(before, collect(any_task.eval_batches("val", 4, runtime)))

    def test_identity_is_stable(self, any_task: Classification) -> None:
        assert any_task.identity() == any_task.identity()

    def test_unknown_split(self, any_task: Classification, runtime: Runtime) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'train'"):
            next(iter(any_task.eval_batches("trian", 4, runtime)))
