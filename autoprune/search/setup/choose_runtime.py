"""The precision and the layout that a new study's network works in, decided before time is spent on the network."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import torch
from torch import nn

from autoprune.core.notify import Notify
from autoprune.core.shapes import Shape
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.dense_network import fresh_network
from autoprune.search.setup.from_spec import finetune_settings
from autoprune.study.spec import StudySpec
from autoprune.study.spec_run import OPEN_LAYOUTS, RuntimeSpec
from autoprune.training.device.bf16_on_cpu import slow_in_bf16
from autoprune.training.device.runtime import Runtime
from autoprune.training.own_finetune import rehearse_loop
from autoprune.training.working_runtime import LAYOUT, PRECISION, Rehearsal, working_runtime

_EXAMPLES = 2


def with_working_runtime(context: StudyContext) -> StudyContext:
    """Return the context with the settings decided in which its network works, by running and training a copy of it.

    A layout that works and was left to ``auto`` stays so, for a later step to measure.

    Raises:
        ModelError: if the network cannot be built, run or trained.
        UsageError: if it does not work in a setting that was asked for by name.
    """
    spec = context.spec
    network, named = fresh_network(context, spec.model.weights), named_settings(spec.runtime)
    device = context.device if PRECISION.key in named else faster_precision(network, context.device, context.notify)
    runtime = working_runtime(network, _rehearsal(context, network), device, named, context.notify)
    rehearse_loop(network, context.task, runtime, spec.seed)
    return replace(context, spec=_decided(spec, runtime), device=runtime)


def named_settings(wish: RuntimeSpec) -> set[str]:
    """Return the settings that were asked for by name."""
    return {name for name in (LAYOUT.key, PRECISION.key) if getattr(wish, name) not in OPEN_LAYOUTS}


def faster_precision(network: nn.Module, runtime: Runtime, notify: Notify) -> Runtime:
    """Return the runtime in float32 where the network trains faster so, though the machine multiplies bf16 faster."""
    slow = slow_in_bf16(network) if runtime.device == "cpu" and PRECISION.is_on(runtime) else ""
    if not slow:
        return runtime
    notify(
        f"precision is fp32: {slow} is a depthwise convolution with a stride, which trains many times more slowly in "
        "bf16 on a CPU; --precision names another"
    )
    return PRECISION.off(runtime)


def _rehearsal(context: StudyContext, network: nn.Module) -> Rehearsal:
    """Return what the network is tried on: the first training batch, and the optimizer that trains it first."""
    spec, task, device = context.spec, context.task, context.device
    if not task.has_batches:
        return Rehearsal(task.example(network), None, None, spec.seed)
    size = spec.dense.batch_size if spec.dense.epochs and not spec.model.weights else spec.finetune.batch_size
    (batch,) = islice(task.train_stream(size, 0, spec.seed, device), 1)
    return Rehearsal(batch, task, finetune_settings(spec), spec.seed)


def _decided(spec: StudySpec, runtime: Runtime) -> StudySpec:
    decided: dict[str, str] = {"precision": runtime.precision}
    if not runtime.channels_last:
        decided["layout"] = LAYOUT.plain
    return spec.model_copy(update={"runtime": spec.runtime.model_copy(update=decided)})


def runtime_to_run(network: nn.Module, shape: Shape, runtime: Runtime, named: set[str], notify: Notify) -> Runtime:
    """Return the settings in which a network answers random inputs; it is not trained.

    Args:
        network: on any device; not touched.
        shape: of one input.
        runtime: as fast as the machine allows, or as it was asked for.
        named: keys of the settings that were asked for by name.
        notify: called with a sentence for each setting that falls back.

    Raises:
        ModelError, UsageError: as :func:`with_working_runtime`.
    """
    images = torch.rand(_EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    rehearsal = Rehearsal(images, None, None, 0)
    return working_runtime(network, rehearsal, runtime, named, notify)
