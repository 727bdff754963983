"""Compensation in a study: one set of calibration examples, and the dense network's answers to it, for all candidates.

The answers are made once in each process, at its first candidate, and kept in memory: making them takes about as long
as reading them from a disk would, and they would be the largest file of a study.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from autoprune.core.notify import Notify
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.compensation.calibration_examples import joined
from autoprune.pruning.compensation.compensate import compensate
from autoprune.pruning.compensation.dense_answers import DenseAnswers, dense_answers
from autoprune.pruning.compensation.rows import ROWS_PER_INPUT
from autoprune.pruning.cut_plan import CutPlan
from autoprune.study.spec_training import UNTRAINED_IMAGES
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime
from autoprune.training.device.seeding import seeded
from autoprune.training.loop import stream

_BATCH = 128


@dataclass(eq=False)
class Compensator:
    """What refits the networks that are cut out of dense ones of one study.

    Attributes:
        dense: the network that candidates are cut from; its answers are kept.
        task: whose training examples are looked at, as the fine-tune sees them, without their labels.
        runtime: where networks run; the refit is in float32 whatever its precision.
        images: how many examples are looked at, and up to 512 where a layer has more inputs than that and one row for
            each example; 0: nothing is refitted.
        seed: of the stream of examples.
        notify: called with a sentence on what is not refitted, and why.
        rows_per_input: of each layer's regression.
    """

    dense: nn.Module
    task: DataTask
    runtime: Runtime
    images: int
    seed: int
    notify: Notify = lambda sentence: None
    rows_per_input: int = ROWS_PER_INPUT
    _examples: Inputs | None = field(default=None, init=False)
    _answers: DenseAnswers | None = field(default=None, init=False)
    _told: set[str] = field(default_factory=set, init=False)

    def __call__(self, pruned: nn.Module, cut: CutPlan, whole: nn.Module | None = None) -> bool:
        """Refit a cut network in place, and return whether that was done.

        Args:
            pruned: placed on the runtime.
            cut: by which it was cut.
            whole: what it was cut from, placed on the runtime; ``None`` for the dense network.

        Raises:
            ModelError: if the cut network does not run.
        """
        answers = self._answers_of(whole if whole is not None else self.dense)
        if answers is None:
            return False
        with self.runtime.work():
            found = compensate(pruned, answers, cut, self.seed)
        for path, reason in found.left.items():
            self._tell(f"compensation leaves {path} as it is: {reason}")
        return True

    def _answers_of(self, whole: nn.Module) -> DenseAnswers | None:
        """Return the answers of a network; those of the dense one are kept."""
        if self.images < 1 or not self.task.has_batches:
            return None
        if whole is self.dense and self._answers is not None:
            return self._answers
        try:
            answers = self._made(whole)
        except ModelError as error:
            self._tell(f"no compensation: {error}")
            return None
        if whole is self.dense:
            self._answers = answers
        return answers

    def _made(self, whole: nn.Module) -> DenseAnswers | None:
        with self.runtime.work(), seeded(self.seed, self.runtime.device):
            if self._examples is None:  # drawn once: a stream may differ at each pass
                drawn = max(self.images, min(UNTRAINED_IMAGES, self.task.sizes["train"]))
                batches = calibration_batches(self.task, whole, drawn, self.runtime, self.seed)
                self._examples = joined(batches, drawn)
            if self._examples is None:
                return None
            answers = dense_answers(whole, self._examples, self.rows_per_input, self.images)
        size, given = answers.inputs.size, min(self.images, self.task.sizes["train"])
        if size is None:
            self._tell("compensation looks at one batch, whose examples cannot be told apart")
        elif size < given:
            self._tell(
                f"compensation looks at {size} training examples instead of {given}: more take too much memory, "
                "or are of other shapes"
            )
        return answers

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self.notify(sentence)


def calibration_batches(
    task: DataTask, network: nn.Module, images: int, runtime: Runtime, seed: int
) -> Iterator[Inputs]:
    """Yield what a network is called with for training examples, as the fine-tune sees them.

    Args:
        task: the data; of which labels are not read.
        network: that is called; not run.
        images: how many, rounded up to whole batches.
        runtime: where the batches are placed.
        seed: of the stream.
    """
    size = min(_BATCH, images)
    count = -(-images // max(1, task.batch_size_of(size)))
    for batch, _ in stream(task, count, size, runtime, seed):
        yield task.inputs(network, batch)
