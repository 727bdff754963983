"""The smallest batches that a network will meet, tried before an hour is spent on its training.

A network that loses the batch dimension of a single image (``squeeze()``), or whose batch norm cannot be trained on
one, runs well until the last batch of a split or of an epoch holds just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autoprune.core.notify import Notify
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import map_tensors
from autoprune.search.setup.importance_scores import CALIBRATION_BATCH
from autoprune.study.spec import StudySpec
from autoprune.tasks.task import SPLITS, Batch, DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.scoring import SCORED_TOGETHER, TRAIN_LIMIT


def check_batches(network: nn.Module, task: DataTask, spec: StudySpec, runtime: Runtime, notify: Notify) -> None:
    """Run a network on a single example, and in training mode on the smallest batch of an epoch; it is left as it was.

    Args:
        network: placed on the runtime; it answers a batch of two.
        task: the data.
        spec: whose batch sizes count.
        runtime: where the network runs.
        notify: called with a sentence if it fails on a single example and none comes alone.

    Raises:
        ModelError: that says which batch is so small, and what to do.
    """
    if not task.has_batches:
        return
    batch = next(iter(task.eval_batches("val", 2, runtime)))
    if Inputs.of((batch,)).size is None:  # its examples cannot be told apart
        return
    fault = _fault_of(network, _first_of(batch), task, runtime, training=False)
    if fault and (split := _single_image(task, spec) or _single_in_own_batches(task, spec, runtime)):
        raise ModelError(
            f"the network fails on a single example, and the last of the {split} examples comes alone: {fault}; keep "
            "the batch dimension, by flatten(1) where it is squeeze(), for example"
        )
    if fault:
        notify(f"the network answers several examples at once, and fails on a single one: {fault}")
    for key, size in _smallest_in_training(task, spec):
        _check_training(network, task, runtime, key, size)


def _single_image(task: DataTask, spec: StudySpec) -> str:
    """Return which split leaves one example for its last batch when it is looked at; empty if none does."""
    if task.cuts_batches:
        return ""
    train, val, test = (task.sizes[split] for split in SPLITS)
    together = [
        *(("validation", min(val, most)) for most in (val, spec.stopping.images, spec.sensitivity.images)),
        ("test", test),
        ("training", min(train, val, TRAIN_LIMIT)),
    ]
    alone = [split for split, count in together if count % SCORED_TOGETHER == 1]
    calibrated = min(train, spec.space.calibration_images) % CALIBRATION_BATCH == 1
    return next(iter(alone), "training" if calibrated else "")


def _single_in_own_batches(task: DataTask, spec: StudySpec, runtime: Runtime) -> str:
    """Return which split really has a batch of one example when it is looked at, as a user's own task may cut its own.

    What the search reads is walked once, and only for a network that fails on such a batch. Test examples are not read.
    """
    looked_at = (
        ("validation", "val", SCORED_TOGETHER, task.sizes["val"]),
        ("training", "train", CALIBRATION_BATCH, min(task.sizes["train"], spec.space.calibration_images)),
    )
    for said, split, size, limit in looked_at:
        if any(task.count(batch) == 1 for batch in task.eval_batches(split, size, runtime, limit)):
            return said
    return ""


def _smallest_in_training(task: DataTask, spec: StudySpec) -> list[tuple[str, int]]:
    """Return key of the spec → examples of the smallest batch of an epoch; of one only if all have one."""
    wanted = {"finetune.batch_size": (spec.finetune.batch_size, spec.finetune.epochs)}
    if not spec.model.weights:
        wanted["dense.batch_size"] = (spec.dense.batch_size, spec.dense.epochs)
    if task.cuts_batches:  # its own, which the rehearsal has tried
        return []
    count = task.sizes["train"]
    whole = {key: min(size, count) for key, (size, epochs) in wanted.items() if epochs}
    return [(key, count % size if count % size > 1 else size) for key, size in whole.items()]


def _check_training(network: nn.Module, task: DataTask, runtime: Runtime, key: str, size: int) -> None:
    batch = next(iter(task.eval_batches("train", size, runtime, limit=size)))
    fault = _fault_of(network, batch, task, runtime, training=True)
    if fault is None:
        return
    several = next(iter(task.eval_batches("train", 2 * size, runtime, limit=2 * size)))
    if _fault_of(network, several, task, runtime, training=True) is None:  # else it is no matter of the batch
        raise ModelError(
            f"the network cannot be trained on a batch of {size}, the smallest of an epoch of {task.sizes['train']} "
            f"examples: {fault}; give another {key}"
        )


def _first_of(batch: Batch) -> Batch:
    """Return a batch of the first example alone."""
    return map_tensors(batch, lambda tensor: tensor[:1])


def _fault_of(network: nn.Module, batch: Batch, task: DataTask, runtime: Runtime, *, training: bool) -> str | None:
    """Return what a network raises on a batch, in words; ``None`` if it answers."""
    try:
        with evaluating(network), _unchanged(network), seeded(0, runtime.device), torch.no_grad():
            network.train(training)
            runtime.answer(task.forward, network, batch)
    except ModelError as error:
        return str(error).partition(". ")[0]
    except Exception as error:  # the user's own network may raise anything
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """Put back what a forward pass in training mode changes, such as batch norm's statistics."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            if name in before and buffer.shape == before[name].shape:
                buffer.copy_(before[name])
