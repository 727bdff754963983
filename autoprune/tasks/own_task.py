"""Any task: :class:`Task`, built from the user's own batches, loss and score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from autoprune.core.metrics import Metric
from autoprune.errors import DataError, UsageError
from autoprune.models.calling.inputs import Inputs, words
from autoprune.models.calling.tensors import tensors_in
from autoprune.tasks.captured_call import captured_call
from autoprune.tasks.default_forward import default_inputs, default_targets, is_zipped
from autoprune.tasks.distill import default_distillation
from autoprune.tasks.own_data import OwnSplit, hash_of, placed
from autoprune.tasks.own_loop import guarded, unchanged_by
from autoprune.tasks.split_metric import SplitMetrics, evaluated, is_split_metric, metrics_of, reduction, told
from autoprune.tasks.task import SPLITS, Batch, DataTask, Evaluated, OnStep, Placement, ScoredBatch, check_split

_HASHED = 8  # batches of each split that its identity is made from
ExampleScores: TypeAlias = Tensor | Mapping[str, Tensor]
_LARGEST_EXPONENT = 709  # of a float64


def _mean(rows: Tensor) -> float:
    return float(rows.mean() if rows.is_floating_point() else rows.double().mean())


def _root_of_mean(squares: Tensor) -> float:
    mean = _mean(squares)
    return math.nan if mean < 0 else math.sqrt(mean)


def _exponential_of_mean(nats: Tensor) -> float:
    """Return it; infinite, and no error, where a network has gone astray."""
    mean = _mean(nats)
    return math.inf if mean > _LARGEST_EXPONENT else math.exp(mean)


_REDUCTIONS: Mapping[str, Callable[[Tensor], Any]] = {"rmse": _root_of_mean, "perplexity": _exponential_of_mean}


class Task(DataTask):
    """What a network is to learn and how it is judged, from callables.

    Every argument but the data and the loss has a default; a subclass may override the methods instead.

    Args:
        train: batches to learn from: an iterable that can be walked again and again, as a ``DataLoader`` or a list is,
            or a function (epoch, seed) that returns one. A batch is any structure of tensors.
        val: batches that candidates are judged on, in the same form.
        test: batches that the picked network alone meets; ``None`` for none.
        loss: (output, batch) → the loss, a scalar.
        score: (output, batch) → one value for each example, ``(N,)``, or ``(N, k)`` with ``reduce``; or a dictionary of
            them by metric.
        evaluate: (network, batches) → value, (value, standard error, examples), or a dictionary of values by metric;
            in the place of ``score``, for what cannot be said of single examples.
        reduce: all rows of a score, ``(N,)`` or ``(N, k)`` → the metric's value; a dictionary of such functions for
            several metrics. The mean by default; for ``rmse`` the root of the mean (scores are squared errors), for
            ``perplexity`` the exponential of it (scores are nats).
        metric: of the score: a :class:`Metric`, the name of a known one, several of them of which the first leads, or
            an object in torchmetrics' form, which is updated with (output, targets): a list, a dictionary or a
            ``MetricCollection`` of them for several.
        forward: (network, batch) → output; by default the network gets a tuple's first part, or the entries of a
            dictionary that its ``forward`` accepts, labels left out.
        distill: (student's output, teacher's output, batch) → a scalar; by default the divergence of logits, the
            squared difference of other real outputs, and nothing where neither is known.
        example: a batch, or a function that returns one, of what the network is called with, for tracing and export.
        finetune: (network, steps, seed, on_step) → trains a network in place, calling ``on_step(done, total)``; in the
            place of our loop.
        identity: a text that changes with the data, where its content cannot be hashed.
        name: of the data, for people.
        licence: of the data.
        description: one or two sentences.
        chance: the metric's value that guessing gives.

    Raises:
        DataError: if the data is none, or can be walked only once.
        UsageError: if nothing says how a network is judged, or what it is called.
    """

    def __init__(
        self,
        train: Any,
        val: Any,
        test: Any = None,
        *,
        loss: Callable[[Any, Batch], Tensor] | None = None,
        score: Callable[[Any, Batch], ExampleScores] | None = None,
        evaluate: Callable[[nn.Module, Iterator[Batch]], Any] | None = None,
        reduce: Callable[[Tensor], float] | Mapping[str, Callable[[Tensor], float]] | None = None,
        metric: Metric | str | Any = None,
        forward: Callable[[nn.Module, Batch], Any] | None = None,
        distill: Callable[[Any, Any, Batch], Tensor] | None = None,
        example: Any = None,
        finetune: Callable[[nn.Module, int, int, OnStep], object] | None = None,
        identity: str = "",
        name: str = "own data",
        licence: str = "",
        description: str = "",
        chance: float | None = None,
    ) -> None:
        self.name, self.licence, self.description, self.chance = name, licence, description, chance
        self.metrics, split_metrics = metrics_of(metric)
        self._loss, self._score, self._evaluate = loss, score, evaluate
        self._split_metrics: SplitMetrics | None = split_metrics
        self._forward, self._distill, self._example, self._word = forward, distill, example, identity
        loop = self.finetune if finetune is None else finetune  # a subclass may bring its own
        if loop is not None:
            self.finetune = guarded(loop, f"finetune of {name}")
        self.cuts_batches = True
        self.scores_examples = score is not None or type(self).score_batch is not Task.score_batch
        self.reductions = self._reductions_of(reduce)
        given = {"train": train, "val": val, "test": test}
        self._splits = {
            split: OwnSplit(given[split], split, name, self.count) for split in SPLITS if given[split] is not None
        }
        self._sizes: dict[str, int] | None = None
        self._check()

    def _reductions_of(self, given: Any) -> Mapping[str, Callable[[Tensor], float]]:
        known = {one.name: _REDUCTIONS[one.name] for one in self.metrics if one.name in _REDUCTIONS}
        if given is not None:
            known.update(given if isinstance(given, Mapping) else {self.metric.name: given})
        return {name: reduction(reduce, name, self.name) for name, reduce in known.items()}

    def _check(self) -> None:
        missing = [split for split in ("train", "val") if split not in self._splits]
        if missing:
            raise DataError(f"{self.name}: {' and '.join(missing)} is None; give batches to learn from and to judge by")
        own = type(self)
        for argument, given in (("score", self._score), ("evaluate", self._evaluate)):
            if is_split_metric(given):
                raise UsageError(
                    f"{self.name}: {argument} is {type(given).__name__}, a metric in torchmetrics' form, which is not "
                    f"called as {argument} is; give metric={type(given).__name__}(…) and leave {argument} out"
                )
        judges = {"score": self._score, "evaluate": self._evaluate, "metric": self._split_metrics}
        judging = [argument for argument, given in judges.items() if given is not None]
        if len(judging) > 1:
            raise UsageError(
                f"{self.name}: {' and '.join(judging)} each say how a network is judged; give one of score, evaluate "
                "and a metric in torchmetrics' form"
            )
        if not judging and own.score_batch is Task.score_batch and own.evaluate is Task.evaluate:
            raise UsageError(
                f"{self.name}: nothing says how a network is judged; give score=lambda output, batch: …, one value for "
                "each example, evaluate=lambda network, batches: …, or a metric in torchmetrics' form"
            )
        if self._loss is None and self.finetune is None and own.loss is Task.loss:
            raise UsageError(f"{self.name}: there is no loss; give loss=lambda output, batch: …, a scalar, or finetune")
        unknown = sorted(set(self.reductions) - {one.name for one in self.metrics})
        if unknown:
            raise UsageError(f"{self.name}: reduce names {', '.join(unknown)}, which is no metric of the task")

    @property
    def sizes(self) -> Mapping[str, int]:  # type: ignore[override]
        """Return the number of examples of each split."""
        if self._sizes is None:
            self._sizes = {split: sum(self._splits[split].counts) if split in self._splits else 0 for split in SPLITS}
        return self._sizes

    def batch_size_of(self, wanted: int) -> int:
        """Return how many examples a training batch has, whatever is asked for."""
        counts = self._splits["train"].counts
        return max(1, round(sum(counts) / len(counts)))

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the training batches of one epoch, as they come."""
        return len(self._splits["train"].counts)

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[Batch]:
        """Yield one epoch of training batches, as they come."""
        for batch in self._splits["train"].batches(epoch, seed):
            yield placed(batch, runtime)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of a split, as they come; ``limit`` takes a fixed random choice of whole batches.

        Raises:
            UnknownNameError: if there is no such split.
            DataError: if it is empty.
        """
        check_split(split, self.sizes, self.name)
        for batch in self._splits[split].some(limit):
            yield placed(batch, runtime)

    def identity(self) -> str:
        """Return the user's word for the data, or a hash of its sizes and first batches."""
        if not self._word:
            self._word = hash_of(*(self._splits[split] for split in ("train", "val")), batches=_HASHED)
        return self._word

    def count(self, batch: Batch) -> int:
        """Return the number of examples in a batch: the length of its first tensor or list, or of packed sequences."""
        if isinstance(batch, list) and len(batch) == 2 and not _is_of_examples(batch):
            return self.count(batch[0])  # a loader's own [inputs, labels]
        if is_zipped(batch):
            return len(batch[0])
        first = batch
        while isinstance(first, Mapping | tuple) and not isinstance(first, PackedSequence):
            inside = list(first.values()) if isinstance(first, Mapping) else list(first)
            first = next((each for each in inside if tensors_in(each)), None)
        if isinstance(first, PackedSequence):
            return int(first.batch_sizes[0])
        if isinstance(first, list):
            return len(first)
        found = tensors_in(first)
        if not found or not found[0].dim():
            raise DataError(
                f"{self.name}: a batch is {words(batch)}, in which no examples can be counted; expected tensors whose "
                "first dimension is that of the examples, alone, in tuples or in dictionaries (torch.from_numpy makes "
                "them of arrays)"
            )
        return int(found[0].shape[0])

    def inputs(self, network: nn.Module, batch: Batch) -> Inputs:
        """Return what the network is called with for a batch; with an own ``forward``, what that calls it with."""
        if self._forward is None and type(self).forward is Task.forward:
            return default_inputs(network, batch, self.name)
        return captured_call(network, lambda: self.forward(network, batch), self.name)

    def forward(self, network: nn.Module, batch: Batch) -> Any:
        """Return the network's output for a batch."""
        if self._forward is not None:
            return self._forward(network, batch)
        return default_inputs(network, batch, self.name).run(network)

    def example(self, network: nn.Module) -> Inputs:
        """Return what the network is called with for tracing and export, on the CPU."""
        if self._example is None:
            return super().example(network)
        return Inputs.of(self._example() if callable(self._example) else self._example).on("cpu")

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the user's loss.

        Raises:
            DataError: if it is no scalar.
        """
        if self._loss is None:
            raise UsageError(f"{self.name} has no loss, and this needs one; give loss=lambda output, batch: …")
        found = self._loss(output, batch)
        if not isinstance(found, Tensor) or found.dim() or not found.is_floating_point():
            raise DataError(
                f"{self.name}: the loss is {words(found)}; expected a real scalar, such as the mean over the batch"
            )
        return found

    @property
    def has_loss(self) -> bool:  # type: ignore[override]
        """Return whether there is a loss to differentiate."""
        return self._loss is not None or type(self).loss is not Task.loss

    def distill(self, student: Any, teacher: Any, batch: Batch, temperature: float) -> Tensor | None:
        """Return how far a student's output is from the teacher's; ``None`` if nothing says.

        Raises:
            DataError: if the user's own function fails, or gives no scalar.
        """
        if self._distill is not None:
            with told(f"{self.name}: distill"):
                found: Any = self._distill(student, teacher, batch)
            if found is not None and (not isinstance(found, Tensor) or found.dim()):
                raise DataError(f"{self.name}: distill gave {words(found)}; expected a scalar, or None for nothing")
            return found
        return default_distillation(student, teacher, default_targets(batch), temperature)

    def score_batch(self, output: Any, batch: Batch) -> ScoredBatch:
        """Return the user's scores of a batch, one row for each example, and its loss.

        Raises:
            DataError: if they are of another length, or not numbers.
        """
        count = self.count(batch)
        scores = self._scores(output, batch, count) if self._score is not None else {}
        losses = self.loss(output, batch).detach() if self.has_loss else torch.tensor(math.nan)
        return ScoredBatch(scores, losses, count)

    def _scores(self, output: Any, batch: Batch, count: int) -> dict[str, Tensor]:
        found: Any = self._score(output, batch) if self._score else {}
        by_name = dict(found) if isinstance(found, Mapping) else {self.metric.name: found}
        missing = [one.name for one in self.metrics if one.name not in by_name]
        if missing:
            raise DataError(
                f"{self.name}: score gave {', '.join(by_name) or 'nothing'} and not {', '.join(missing)}; "
                "give one value for each example of every metric"
            )
        return {one.name: self._checked(one.name, by_name[one.name], count) for one in self.metrics}

    def _checked(self, name: str, score: Any, count: int) -> Tensor:
        rows = score.detach() if isinstance(score, Tensor) else score
        is_real = isinstance(rows, Tensor) and not rows.is_complex()
        if not is_real or not rows.dim() or rows.shape[0] != count or rows.dim() > 2:
            given = f"shape {tuple(rows.shape)}" if is_real else words(score)
            raise DataError(
                f"{self.name}: score gave {given} of {name} for a batch of {count} examples; expected a tensor "
                f"({count},), one value for each, or ({count}, k) with reduce"
            )
        if rows.dim() == 2 and name not in self.reductions:
            raise DataError(f"{self.name}: score gave {rows.shape[1]} numbers of {name} for each example; give reduce")
        return rows

    def evaluate(self, network: nn.Module, split: str, runtime: Placement, limit: int | None) -> Evaluated | None:
        """Return what the user's own evaluation says of a split; ``None`` where examples are scored."""
        batches = self.eval_batches(split, 1, runtime, limit)
        if self._evaluate is not None:
            who = f"evaluate of {self.name}"
            with told(who), unchanged_by(who, network):
                found = self._evaluate(network, batches)
            return evaluated(found, self.metrics, who)
        if self._split_metrics is None:
            return None
        values = self._split_metrics.of(partial(self.forward, network), batches)
        return replace(evaluated(values, self.metrics, f"metric of {self.name}"), count=self.sizes[split])


def _is_of_examples(items: list[Any]) -> bool:
    """Return whether a list of two holds two examples: tensors of one length are inputs and labels."""
    lengths = {tensor.shape[:1] for item in items for tensor in tensors_in(item)}
    return len(lengths) != 1
