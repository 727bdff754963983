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
    spec: StudySpec, folder: StudyFolder, seconds: float, until_all_are_ready: Callable[[], object]
) -> Throughput:
    """Train for some seconds, and return how fast that was.

    Args:
        spec: of the study.
        folder: of the study; nothing is written into it.
        seconds: to train for.
        until_all_are_ready: called after the first steps; returns when the clock may start.

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
    network = fresh_network(context, weights="")
    steps, began = 0, 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal steps, began
        if done == _WARM_UP:
            until_all_are_ready()
            began = time.perf_counter()
        elif done > _WARM_UP:
            steps = done - _WARM_UP
            if time.perf_counter() - began >= seconds:
                raise _Enough

    run = TrainingRun(context.task, settings, context.device, spec.seed)
    with suppress(_Enough):
        train(network, run, finetune_loss(context.task, settings), on_step=on_step)
    return Throughput(steps / (time.perf_counter() - began), _gigabytes())


def _gigabytes() -> float:
    """Return the most memory that this process has had; Linux counts in KiB, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most * 1024 / 1e9
