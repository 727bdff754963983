"""A classification from any batches of inputs and labels: :func:`classification`."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from autoprune.errors import DataError
from autoprune.tasks.default_forward import LABELS, default_targets
from autoprune.tasks.distill import class_dim, main_output
from autoprune.tasks.own_task import Task
from autoprune.tasks.split_metric import is_split_metric
from autoprune.tasks.task import Batch


def classification(train: Any, val: Any, test: Any = None, **options: Any) -> Task:
    """Return the task of naming a class for each example, or for each position of it.

    A network is trained by cross-entropy and judged by accuracy: of an example, or the share of its positions that are
    right; unless ``evaluate`` or a metric in torchmetrics' form says otherwise.

    Args:
        train: batches of (inputs, labels), or dictionaries with labels, as :class:`Task` takes them.
        val: the same to judge candidates on.
        test: the same for the picked network alone; ``None`` for none.
        options: any others of :class:`Task`.

    Raises:
        DataError, UsageError: as :class:`Task` does.
    """
    defaults: dict[str, Any] = {"loss": cross_entropy, "metric": "accuracy"}
    if options.get("evaluate") is None and not is_split_metric(options.get("metric")):
        defaults["score"] = right_answers
    return Task(train, val, test, **{**defaults, **options})


def cross_entropy(output: Any, batch: Batch) -> Tensor:
    """Return the cross-entropy of logits of any shape; labels of −100 do not count.

    Raises:
        DataError: if output and labels do not fit.
    """
    logits, labels, dim = _logits_and_labels(output, batch)
    return F.cross_entropy(logits.movedim(dim, 1), labels)


def right_answers(output: Any, batch: Batch) -> Tensor:
    """Return which examples are right, ``(N,)``, or which share of their positions is.

    Raises:
        DataError: if output and labels do not fit.
    """
    logits, labels, dim = _logits_and_labels(output, batch)
    hits = logits.argmax(dim) == labels
    if labels.dim() == 1:
        return hits
    counted = (labels != -100).flatten(1)
    return (hits.flatten(1) & counted).sum(1) / counted.sum(1).clamp(min=1)


def _logits_and_labels(output: Any, batch: Batch) -> tuple[Tensor, Tensor, int]:
    logits, targets = main_output(output), [each for each in default_targets(batch) if not each.is_floating_point()]
    dim = class_dim(logits, targets) if logits is not None else None
    if logits is None or dim is None:
        given = f"shape {tuple(logits.shape)}" if logits is not None else type(output).__name__
        labels = ", ".join(str(tuple(target.shape)) for target in targets) or "none"
        raise DataError(
            f"the network answers {given}, and the whole-number labels of a batch have the shapes {labels}; expected "
            "logits with one dimension more than the labels: (N, classes) and (N,), for example. Labels are what "
            f"follows a tuple's first part, or what a dictionary calls {', '.join(LABELS)}"
        )
    wanted = logits.shape[:dim] + logits.shape[dim + 1 :]
    return logits, next(target for target in targets if target.shape == wanted), dim
