"""How much one process trains per second: some steps of a study's own network on its own data, and thrown away.

It tells how many workers a machine should run. The network has random weights, which take as long as others.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from autoprune.errors import UsageError
from autoprune.search.setup.context import open_context
from autoprune.search.setup.dense_network import fresh_network
from autoprune.search.setup.from_spec import finetune_settings, resolve
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.training.loop import TrainingRun, train
from autoprune.training.loss import finetune_loss

_WARM_UP = 2  # steps
_EPOCHS = 1000  # more than anybody measures


@dataclass(frozen=True)
class Throughput:
    """What a process trains.

    Attributes:
        steps_per_second: of training.
        gigabytes: of memory that the process has taken at most.
    """

    steps_per_second: float
    gigabytes: float


class _Enough(Exception):
    """The end of a measurement."""


def measure_throughput(
    spec: StudySpec,
    folder: StudyFolder,
    seconds: float,
    wanted: Callable[[], int],
    tell: Callable[[Throughput], object],
) -> None:
    """Train for some seconds as often as that is wanted, and tell how fast each time was.

    Args:
        spec: of the study.
        folder: of the study; nothing is written into it.
        seconds: to train for, each time.
        wanted: called after the first steps, and after each time; waits until the clock may start, and returns with how
            many threads to train then; 0 for no more.
        tell: called with what was measured.

    Raises:
        UsageError: if the study has a training loop of its own, which cannot be thrown away.
        AutopruneError: if the network or the data cannot be used.
    """
    context = open_context(resolve(spec), folder, lambda message: None)
    if context.task.finetune is not None:
        raise UsageError(
            "how many workers are best cannot be measured with a training loop of your own; give a number: --workers 2"
        )
    settings = replace(finetune_settings(context.spec, epochs=_EPOCHS), distill=False)
    network, threads = fresh_network(context, weights=""), torch.get_num_threads()
    run = TrainingRun(context.task, settings, context.device, spec.seed)
    try:
        with suppress(_Enough):
            train(network, run, finetune_loss(context.task, settings), on_step=_Clock(seconds, wanted, tell))
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Clock:
    """What is called after each step, and takes the time of those that are wanted."""

    seconds: float
    wanted: Callable[[], int]
    tell: Callable[[Throughput], object]
    _first: int = _WARM_UP
    _began: float = 0.0

    def __call__(self, done: int, _total: int) -> None:
        passed = time.perf_counter() - self._began
        if done > self._first and passed >= self.seconds:
            self.tell(Throughput((done - self._first) / passed, _gigabytes()))
            self._first = done
        if done == self._first:
            threads = self.wanted()
            if not threads:
                raise _Enough
            torch.set_num_threads(threads)
            self._began = time.perf_counter()


def _gigabytes() -> float:
    """Return the most memory that this process has had; Linux counts in KiB, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9
