"""What a file in int8 is worth on validation, beside the network in float32 that it comes from, example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.export_formats import Int8Limit
from autoprune.core.metrics import PER_CENT, Metric
from autoprune.core.paired_scores import PairedScores, paired_difference
from autoprune.errors import ExportError
from autoprune.export.examples import Examples
from autoprune.models.calling.tensors import map_tensors, tensors_in
from autoprune.tasks.reached_score import reached

SCORED_EXAMPLES = 10_000
_BATCH = 64


@dataclass(frozen=True)
class Int8Score:
    """What a file is worth on validation.

    Attributes:
        value: of the metric that leads; NaN if there is a fault.
        gain: by how much it is better than in float32; below 0 if it is worse.
        stderr: standard error of the gain, from the paired answers to the same examples.
        count: how many examples.
        fault: what is wrong with its answers, in words; empty if nothing is.
        paired: what it made of each example; ``None`` if there is a fault.
    """

    value: float
    gain: float
    stderr: float
    count: int
    fault: str = ""
    paired: PairedScores | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class FloatScore:
    """What the network in float32 answers on validation, to hold files in int8 against.

    Attributes:
        examples: of validation.
        value: of the metric that leads.
        paired: what it made of each example.
        shells: its answers without their numbers, batch by batch, where they are more than a tensor.
        is_finite: whether all of its answers are finite.
        varies: whether they differ between examples.
    """

    examples: Examples
    value: float
    paired: PairedScores = field(repr=False)
    shells: tuple[Any, ...] = field(repr=False)
    is_finite: bool
    varies: bool

    @classmethod
    def of(cls, network: nn.Module, examples: Examples) -> FloatScore:
        """Score a network on the CPU.

        Raises:
            ExportError: if its answers are held against nothing, so that nothing can be said of a file in int8.
        """
        if examples.score is None:
            raise ExportError(
                f"what int8 costs cannot be measured on {examples.kind}: no score of single examples is known for "
                f"them; give the data that the network was trained on, as a task that scores examples"
            )
        answers, shells = _Answers(), []
        with torch.inference_mode():
            for inputs, wanted in examples.take(_BATCH, SCORED_EXAMPLES):
                output = inputs.run(network)
                shells.append(None if isinstance(output, Tensor) else map_tensors(output, lambda one: one.new_empty(0)))
                answers.add(tensors_in(output), inputs.size, examples.score(output, wanted))
        found = reached(torch.cat(answers.rows), examples.reduction)
        return cls(examples, found.value, found.paired, tuple(shells), answers.are_finite, answers.vary)

    def judged(self, answer: Callable[..., object]) -> Int8Score:
        """Return what a file is worth.

        Args:
            answer: is called as the network is; the tensors of its answer come in the order of the network's.
        """
        answers = _Answers()
        with torch.inference_mode():
            for tensors, shell, size, wanted in self._answered(answer):
                answers.add(tensors, size, self._rows(tensors, shell, wanted))
        found = reached(torch.cat(answers.rows), self.examples.reduction)
        fault = "NaN or infinite" if self.is_finite and not answers.are_finite else ""
        fault = fault or ("the same for every example" if self.varies and not answers.vary else "")
        if fault or not math.isfinite(found.value):
            return Int8Score(math.nan, -math.inf, math.nan, found.paired.count, fault or "such that no score is finite")
        difference, stderr = paired_difference(found.paired, self.paired)
        gain = self.examples.quality.gain(difference, 0.0)
        return Int8Score(found.value, gain, stderr, found.paired.count, paired=found.paired)

    def _answered(self, answer: Callable[..., object]) -> Iterator[tuple[list[Tensor], Any, int | None, Any]]:
        batches = self.examples.take(_BATCH, SCORED_EXAMPLES)
        for (inputs, wanted), shell in zip(batches, self.shells, strict=True):
            yield tensors_in(inputs.run(answer)), shell, inputs.size, wanted

    def _rows(self, tensors: list[Tensor], shell: Any, wanted: Any) -> Tensor:
        given = iter(tensors)
        output = tensors[0] if shell is None else map_tensors(shell, lambda _: next(given))
        if self.examples.score is None:  # of() has refused this
            raise ExportError("these examples are scored by nothing; give a task that scores examples")
        return self.examples.score(output, wanted)


def is_within(score: Int8Score, reference: float, quality: Metric, limit: Int8Limit) -> bool:
    """Return whether a file is good enough.

    Args:
        score: of the file.
        reference: the network's own score in float32.
        quality: the metric.
        limit: how much may be lost.
    """
    if score.fault or -score.gain > allowed_drop(reference, quality, limit) + 1e-9:
        return False
    worst = limit.worst
    return worst is None or quality.is_better(worst, reference) or not quality.is_better(worst, score.value)


def allowed_drop(reference: float, quality: Metric, limit: Int8Limit) -> float:
    """Return by how much a file may be worse, in the unit in which the metric is stored.

    >>> round(allowed_drop(0.9, Metric("accuracy"), Int8Limit(0.01)), 4)
    0.01
    >>> round(allowed_drop(4.0, Metric("rmse"), Int8Limit(0.01)), 4)
    0.04
    """
    return limit.max_drop if quality.unit == PER_CENT else limit.max_drop * abs(reference)


class _Answers:
    """What was seen of answers so far: the rows of scores, whether all is finite, and whether anything varies."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.are_finite = True
        self.vary = False
        self._first: list[Tensor] | None = None

    def add(self, tensors: list[Tensor], size: int | None, rows: Tensor) -> None:
        """Add a batch."""
        self.rows.append(rows.detach().cpu())
        self.are_finite &= all(bool(one.isfinite().all()) for one in tensors if one.is_floating_point())
        by_example = size is not None and all(one.dim() and len(one) == size for one in tensors)
        first = [one[:1] for one in tensors] if by_example else tensors
        self._first = first if self._first is None else self._first
        self.vary |= any(
            now.shape[1:] != before.shape[1:] or bool((now != before).any())
            for now, before in zip(tensors, self._first, strict=True)
        )
