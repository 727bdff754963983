"""A user's own loop, from the names in a spec."""

from __future__ import annotations

from autoprune.core.metrics import Metric
from autoprune.models.example_inputs import example_inputs
from autoprune.study.spec_sections import LoopSpec
from autoprune.tasks.own_loop import Loop, LoopTask, evaluate_named, finetune_named
from autoprune.tasks.task import DataTask


def loop_task(wish: LoopSpec, metrics: tuple[Metric, ...], data: DataTask | None) -> LoopTask:
    """Return the task that a loop of the user's own makes.

    Args:
        wish: names of functions.
        metrics: that the evaluation gives.
        data: whose batches criteria look at; ``None`` for none.

    Raises:
        UnknownNameError, UsageError: if a name stands for nothing, or something is lacking.
    """
    return LoopTask(
        Loop(
            finetune=finetune_named(wish.finetune) if wish.finetune else None,
            evaluate=evaluate_named(wish.evaluate) if wish.evaluate else None,
            example=(lambda: example_inputs(wish.example)) if wish.example else None,
            metrics=metrics,
            steps_per_epoch=wish.steps_per_epoch,
            names=tuple(name for name in (wish.finetune, wish.evaluate) if name) or (wish.example,),
        ),
        data,
    )
