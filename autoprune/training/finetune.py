"""Fine-tuning of a pruned network, with or without the dense network as a teacher.

Batch norm comes first after a cut (``recalibrate_batchnorm.py``). The loss is in ``loss.py``, the loop in ``loop.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from autoprune.errors import UsageError
from autoprune.tasks.task import OnStep
from autoprune.training.distillation import Teacher
from autoprune.training.loop import OnOptimizer, Span, TrainingRun, TrainReport, train
from autoprune.training.loss import finetune_loss
from autoprune.training.own_finetune import train_by_own_loop
from autoprune.training.trainable import training_only


def finetune(
    network: nn.Module,
    run: TrainingRun,
    teacher: Teacher | None = None,
    on_step: OnStep | None = None,
    *,
    span: Span | None = None,
    only: Collection[str] | None = None,
    on_optimizer: OnOptimizer | None = None,
    enforce: Callable[[], object] | None = None,
) -> TrainReport:
    """Train a pruned network for a short while, in place.

    With ``settings.distill`` the loss is (1 − w) · the task's + w · the distance to the teacher. Give all candidates of
    a study the same seed: they then see the same examples, and the teacher's answers
    are computed once for all of them.

    Args:
        network: changed in place, and left in training mode.
        run: data, settings, runtime and seed.
        teacher: required if the settings say ``distill``, else ignored.
        on_step: called after every step.
        span: which steps of the run to take, as one of several stages; ``None`` for all.
        only: paths of the modules or parameters to train. The others keep their values, but the running
            statistics of norms still change. ``None`` or nothing for all.
        on_optimizer: called once with the optimizer, to register hooks on it, as masks do.
        enforce: does what those hooks do, after steps of a loop of the user's own, whose optimizer is not known.

    Raises:
        UsageError: if the settings say ``distill`` and there is no teacher.
        NonFiniteError: if the loss becomes NaN or infinite; names the step.
    """
    if run.settings.distill and teacher is None and run.task.finetune is None:
        raise UsageError("the settings say distill, and no teacher was given; give one, or set distill to false")
    if run.task.finetune is not None:
        with training_only(network, only):
            return train_by_own_loop(network, run, on_step, span, enforce)
    loss, teacher = finetune_loss(run.task, run.settings), teacher if run.settings.distill else None
    with training_only(network, only):
        return train(network, run, loss, teacher, on_step=on_step, span=span, on_optimizer=on_optimizer)
