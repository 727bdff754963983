"""What a spec's values become on this machine: its data, its device, its fine-tune, how it times networks."""

from __future__ import annotations

from dataclasses import replace

from autoprune.cost.timing_plan import TimingPlan
from autoprune.export.timing_runtimes import check_engine
from autoprune.search.setup.own_loop import loop_task
from autoprune.study.spec import StudySpec
from autoprune.study.spec_run import LatencySpec
from autoprune.study.spec_sections import DataSpec
from autoprune.tasks.builtin import build_task
from autoprune.tasks.task import DataTask
from autoprune.training.device.resolve_runtime import resolve_runtime
from autoprune.training.device.runtime import Runtime
from autoprune.training.learning_rate import usual_rate
from autoprune.training.settings import FinetuneSettings


def resolve(spec: StudySpec) -> StudySpec:
    """Return the spec with the device decided for this machine.

    A precision or a layout left to ``auto`` is decided when a study is prepared, which can try it on the network, and
    so is what networks are timed in.

    Raises:
        UsageError: if this machine lacks the device or the latency runtime that the spec names.
    """
    runtime, plan = runtime_of(spec), timing_plan(spec.latency)
    check_engine(replace(plan, runtime="onnxruntime") if spec.latency.command else plan, runtime.device)
    decided = spec.runtime.model_copy(update={"device": runtime.device})
    return spec.model_copy(update={"runtime": decided})


def timing_plan(wish: LatencySpec) -> TimingPlan:
    """Return how networks are timed by the spec."""
    return TimingPlan(**wish.model_dump(exclude={"command", "command_seconds"}))


def runtime_of(spec: StudySpec) -> Runtime:
    """Return where and how the spec's networks run on this machine."""
    wish = spec.runtime
    return resolve_runtime(wish.device, wish.precision, wish.layout, wish.threads)


def task_of(spec: StudySpec) -> DataTask:
    """Return what a spec's network is to learn: its data, and the user's own loop if it names one.

    Raises:
        AutopruneError: if either cannot be used.
    """
    data, loop = spec.data, spec.loop
    if loop.is_whole and data == DataSpec():
        return loop_task(loop, spec.qualities, None)
    task = build_task(data.source, **data.model_dump(exclude={"source"}))
    return loop_task(loop, spec.qualities, task) if loop.is_used else task


def finetune_settings(spec: StudySpec, epochs: float | None = None, lr: float | None = None) -> FinetuneSettings:
    """Return the fine-tune of the spec, with another length or learning rate if given.

    As long as the rate is not decided, it is the optimizer's usual one.
    """
    wish = spec.finetune
    peak = usual_rate(wish.optimizer) if wish.lr == "auto" else wish.lr
    return FinetuneSettings(
        epochs=wish.epochs if epochs is None else epochs,
        batch_size=wish.batch_size,
        lr=peak if lr is None else lr,
        weight_decay=wish.weight_decay,
        distill=wish.distill,
        temperature=wish.temperature,
        distill_weight=wish.distill_weight,
        optimizer=wish.optimizer,
    )
