"""How good a network is on a split: :func:`score`, accuracy and loss, each with its standard error.

The network runs in evaluation mode and is left as it was. A search scores on validation; the test split is read only
by a caller that names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import NonFiniteError
from autoprune.tasks.task import DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime
from autoprune.training.loop import named_by_line

SCORED_TOGETHER = 256  # images per forward pass
TRAIN_LIMIT = 2000  # training images that are scored, at most


@dataclass(frozen=True)
class Score:
    """Accuracy, in [0, 1], and mean cross-entropy, in nats, over ``count`` images.

    ``loss_stderr`` is the standard deviation of the images' losses over √count; ``accuracy_stderr`` is
    :func:`accuracy_stderr`. ``correct``, bool of shape ``(count,)`` on the CPU, holds which images were right, in the
    split's order; ``None`` where that is not known.
    """

    accuracy: float
    accuracy_stderr: float
    loss: float
    loss_stderr: float
    count: int
    correct: Tensor | None = field(default=None, compare=False, repr=False)


def score(
    network: nn.Module,
    task: DataTask,
    split: str,
    runtime: Runtime,
    batch_size: int = SCORED_TOGETHER,
    limit: int | None = None,
) -> Score:
    """Score a network on a split.

    Args:
        network: placed on the runtime, its values untouched.
        task: the data.
        split: ``train``, ``val`` or ``test``.
        runtime: where and how it runs; the loss is computed in float32 whatever the precision.
        batch_size: images per forward pass.
        limit: at most this many images, always the same ones; ``None`` for all.

    Raises:
        NonFiniteError: if an output is NaN or infinite.
        DataError: if the split is empty.
        ModelError: if the outputs are not one row of ``task.num_classes`` numbers for each image.
    """
    runtime.place(network)
    correct, losses = _judge(network, task, split, runtime, batch_size, limit)
    count, right = len(correct), int(correct.sum())
    spread = float(losses.std(correction=1)) / math.sqrt(count) if count > 1 else 0.0
    return Score(right / count, accuracy_stderr(right, count), float(losses.mean()), spread, count, correct)


def _judge(
    network: nn.Module, task: DataTask, split: str, runtime: Runtime, batch_size: int, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Return which images are right, bool ``(count,)``, and their losses, float64 ``(count,)``, both on the CPU."""
    hits, losses, finite = [], [], []
    # not in inference mode: what a network keeps of it, or assigns to its weights, could not be trained afterwards
    with torch.no_grad(), evaluating(network):
        for batch in task.eval_batches(split, batch_size, runtime, limit):
            with named_by_line(f"scoring on {split}"):
                logits = runtime.logits(network, batch.images, task.num_classes)
            hits.append(logits.argmax(1) == batch.labels)
            losses.append(F.cross_entropy(logits, batch.labels, reduction="none"))
            finite.append(logits.isfinite().all())
        if not bool(torch.stack(finite).all()):
            raise NonFiniteError(
                f"the network's outputs on the {split} images are NaN or infinite; "
                "train it with a smaller learning rate, or prune less"
            )
        # Summed in double precision on the CPU, as not every device has doubles.
        return torch.cat(hits).cpu(), torch.cat(losses).cpu().double()


def score_train(network: nn.Module, task: DataTask, runtime: Runtime) -> Score:
    """Score a network on a fixed random subset of the training images, as they are, without augmentation.

    There are as many of them as validation images, but at most 2,000. Beside the validation score, this shows how far
    a network has memorised its training images.

    Raises:
        NonFiniteError, DataError, ModelError: as :func:`score`.
    """
    return score(network, task, "train", runtime, limit=min(task.sizes["val"], TRAIN_LIMIT))


def accuracy_stderr(right: int, count: int) -> float:
    """Return the standard error of an accuracy, which is never zero.

    With p̃ = (right + 2) / (count + 4), it is √(p̃ (1 − p̃) / (count + 4)): two hits and two misses are added. By the
    textbook √(p (1 − p) / count), a network without a mistake on 10 images would be perfect for certain.

    >>> round(accuracy_stderr(500, 1000), 4), round(accuracy_stderr(10, 10), 3)
    (0.0158, 0.094)

    Source: Agresti and Coull, "Approximate is better than 'exact' for interval estimation of binomial
    proportions", The American Statistician 52 (1998), section 4.
    """
    share = (right + 2) / (count + 4)
    return math.sqrt(share * (1 - share) / (count + 4))
