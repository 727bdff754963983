"""What every task keeps: the contract, as a function that a test calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.tensors import tensors_in
from autoprune.models.copying.copy_network import copy_network
from autoprune.tasks.task import SPLITS, Batch, DataTask, PlainPlacement

_SIZE, _LIMIT = 4, 8
_CPU = PlainPlacement()


def check_task(task: DataTask, network: nn.Module) -> None:
    """Raise if a task breaks its contract.

    A stream of training batches is a function of epoch and seed; a split is walked again and again in the same order,
    and has as many examples as it says; what is done to a batch stays there; a network answers a batch, its loss is a
    scalar with a gradient, and scores have a row for each example; the example runs, and the identity is stable.

    Args:
        task: to be checked.
        network: that its batches can be given to; not changed.

    Raises:
        AssertionError: if the contract is broken; the message says how.
    """
    twin = copy_network(network).cpu().eval()
    _expect(set(task.sizes) == set(SPLITS), f"sizes has {sorted(task.sizes)}; expected {', '.join(SPLITS)}")
    _expect(bool(task.metrics), "there is no metric")
    _expect(task.identity() == task.identity(), "identity() gives another text when called again")
    _expect(bool(tensors_in(answer_of(twin, task.example(twin)))), "the example gives no tensor")
    if task.has_batches:
        _check_streams(task)
        _check_judgement(task, twin)


def _check_streams(task: DataTask) -> None:
    first, again = (list(task.train_stream(_SIZE, 0, 0, _CPU)) for _ in range(2))
    steps = task.steps_per_epoch(_SIZE)
    _expect(len(first) == steps, f"an epoch has {len(first)} training batches, and steps_per_epoch says {steps}")
    _expect(_same(first, again), "a training epoch of one seed is another one when it is walked again")
    for split in (name for name in SPLITS if task.sizes[name]):
        batches, once_more = (list(task.eval_batches(split, _SIZE, _CPU)) for _ in range(2))
        count = sum(map(task.count, batches))
        _expect(_same(batches, once_more), f"{split} is another one when it is walked again")
        if split != "train":
            _expect(count == task.sizes[split], f"{split} has {count} examples, and sizes says {task.sizes[split]}")
        before = [tensor.clone() for tensor in tensors_in(batches)]  # which the task itself may still hold
        for tensor in tensors_in(once_more):
            tensor.zero_()
        _expect(_same(before, list(task.eval_batches(split, _SIZE, _CPU))), f"{split} is changed by what uses it")
        few = sum(map(task.count, task.eval_batches(split, _SIZE, _CPU, _LIMIT)))
        largest = max(map(task.count, batches))
        _expect(0 < few <= _LIMIT + largest, f"{split} limited to {_LIMIT} examples gives {few}")


def _check_judgement(task: DataTask, network: nn.Module) -> None:
    batch = next(iter(task.eval_batches("val", _SIZE, _CPU)))
    output = task.forward(network, batch)
    if task.has_loss:
        loss = task.loss(output, batch)
        _expect(isinstance(loss, Tensor) and not loss.dim(), "the loss is no scalar")
        _expect(loss.requires_grad, "the loss has no gradient")
    if not task.scores_examples:
        found = task.evaluate(network, "val", _CPU, None)
        _expect(found is not None, "neither score_batch nor evaluate says how good a network is")
        names: Any = found.measurement.values if found is not None else {}
    else:
        judged = task.score_batch(output, batch)
        names, count = judged.scores, task.count(batch)
        for name, rows in judged.scores.items():
            _expect(len(rows) == count, f"score has {len(rows)} rows of {name} for {count} examples")
    missing = [one.name for one in task.metrics if one.name not in names]
    _expect(not missing, f"nothing is said of {', '.join(missing)}")


def _same(one: list[Batch], other: list[Batch]) -> bool:
    first, second = tensors_in(one), tensors_in(other)
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _expect(is_so: bool, message: str) -> None:
    if not is_so:
        raise AssertionError(f"the task breaks its contract: {message}")
