"""The inputs that exported files are checked on: a task's validation examples, noise, or a batch that was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from autoprune.core.metrics import ACCURACY, Metric
from autoprune.models.calling.inputs import Inputs
from autoprune.tasks.task import DataTask, PlainPlacement

ScoreAnswers: TypeAlias = Callable[[Any, Any], Tensor]
"""(what a network answers to a batch, what its answers are held against) → one value for each example, ``(N, …)``."""


def mean_of(values: Tensor) -> float:
    """Return the mean of one value for each example."""
    return float(values.double().mean())


@dataclass(frozen=True)
class Examples:
    """The inputs that files are checked on.

    Attributes:
        kind: what they are, in words.
        example: the inputs that costs are counted on.
        take: (examples in a batch, at most how many) → (inputs, what answers are held against), always the same.
        score: scores answers; ``None`` where they are held against nothing.
        reduction: values of all examples, ``(N, …)`` → the score; ``None`` for their mean.
        quality: what the score is.
        calibration: (examples in a batch, at most how many) → training inputs as they are, always the same; ``None``
            without training data.
        names_classes: whether an answer of shape ``(N, classes)`` names a class by its largest number.
    """

    kind: str
    example: Inputs
    take: Callable[[int, int], Iterator[tuple[Inputs, Any]]]
    score: ScoreAnswers | None = None
    reduction: Callable[[Tensor], float] | None = None
    quality: Metric = ACCURACY
    calibration: Callable[[int, int], Iterator[Inputs]] | None = None
    names_classes: bool = False

    def reduce(self, values: Tensor) -> float:
        """Return the score of all examples' values, ``(N, …)``."""
        return self.reduction(values) if self.reduction else mean_of(values)

    def first(self, count: int) -> Inputs:
        """Return one batch of at most so many examples."""
        return next(self.take(count, count))[0]

    def timed(self, count: int) -> Inputs:
        """Return a batch to time on: zeros where inputs are one tensor of real numbers, or else examples, repeated."""
        return timing_inputs(self.example, count)


def timing_inputs(example: Inputs, count: int) -> Inputs:
    """Return a batch to time networks on, since time does not depend on real numbers, but ids have to be some.

    Args:
        example: what they are called with.
        count: examples; where they cannot be told apart, the batch stays as it is.

    >>> timing_inputs(Inputs.of(torch.ones(2, 3)), 4).tensors[0].sum()
    tensor(0.)
    >>> timing_inputs(Inputs.of(torch.tensor([[7, 9]])), 2).tensors[0].tolist()
    [[7, 9], [7, 9]]
    """
    if not example.is_plain:
        return example.of_size(count)
    (tensor,) = example.tensors
    return Inputs.of(torch.zeros(count, *tensor.shape[1:]))


class _Answering(nn.Module):
    """A network whose answer is known, for a task that says itself how networks are called."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.answer


def examples_of(task: DataTask, network: nn.Module) -> Examples:
    """Return the validation examples of a task.

    Args:
        task: whose leading metric scores answers, if it scores single examples.
        network: that answers; only looked at.
    """
    if not task.has_batches:
        return replace(given_examples(task.example(network)), kind="example inputs")
    lead = task.metric.name

    def take(size: int, limit: int) -> Iterator[tuple[Inputs, Any]]:
        for batch in task.eval_batches("val", size, PlainPlacement(), limit):
            yield task.inputs(network, batch), batch

    def calibration(size: int, limit: int) -> Iterator[Inputs]:
        for batch in task.eval_batches("train", size, PlainPlacement(), limit):
            yield task.inputs(network, batch)

    def score(output: Any, batch: Any) -> Tensor:
        return task.score_batch(task.forward(_Answering(output), batch), batch).scores[lead]

    return Examples(
        "validation examples",
        task.example(network),
        take,
        score=score if task.scores_examples else None,
        reduction=task.reductions.get(lead),
        quality=task.metric,
        calibration=calibration,
        names_classes=task.needs.num_classes is not None,
    )


def random_examples(shape: Sequence[int], seed: int) -> Examples:
    """Return 64 inputs of normal noise, for a network that comes without data."""

    def take(size: int, limit: int) -> Iterator[tuple[Inputs, Any]]:
        inputs = torch.randn(64, *shape, generator=torch.Generator().manual_seed(seed))[:limit]
        for start in range(0, len(inputs), size):
            yield Inputs.of(inputs[start : start + size]), None

    return Examples("random inputs", next(take(1, 1))[0], take, names_classes=True)


def given_examples(inputs: Inputs) -> Examples:
    """Return one batch of inputs of any structure."""

    def take(size: int, limit: int) -> Iterator[tuple[Inputs, Any]]:
        yield inputs.first(limit), None

    return Examples("example inputs" if inputs.size else "batch of example inputs", inputs, take)
