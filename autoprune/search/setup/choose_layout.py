"""The memory layout that a study's networks have: as the spec says, by rule, or the faster one if that is asked for.

Two layouts round differently, so the layout is part of what a seed fixes: it is decided once, said in a line and stored
with the study, and ``auto`` never looks at a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.context import StudyContext
from autoprune.study.dense_facts import read_dense_facts
from autoprune.study.spec_run import OPEN_LAYOUTS
from autoprune.training.device.runtime import Runtime
from autoprune.training.memory_layout import fastest_layout, has_layouts, usual_layout


def with_layout(context: StudyContext, pruner: Pruner) -> StudyContext:
    """Return the context with the layout decided: as given, as stored, by rule, or the faster one."""
    spec = context.spec
    device = _decided_layout(context, pruner) if spec.runtime.layout in OPEN_LAYOUTS else context.device
    runtime = spec.runtime.model_copy(update={"layout": device.layout})
    return replace(context, spec=spec.model_copy(update={"runtime": runtime}), device=device)


def _decided_layout(context: StudyContext, pruner: Pruner) -> Runtime:
    spec, device = context.spec, context.device
    if context.folder.dense_facts.exists():  # the dense network was timed in it already
        return replace(device, channels_last=read_dense_facts(context.folder).layout == "channels_last")
    shape = context.example(pruner.network).shape
    if not has_layouts(pruner.network, shape):
        return replace(device, channels_last=False)
    if spec.runtime.layout == "measured":
        decided = fastest_layout(half_pruned(pruner), context.task, spec.finetune.batch_size, device, spec.seed)
        context.notify(f"memory layout: {decided.layout}, in which a few training steps took less time here")
        return decided
    decided = usual_layout(pruner.network, shape, device)
    images = f"images of {'×'.join(map(str, shape[-2:]))} pixels in {device.precision}"
    context.notify(f"memory layout: {decided.layout}, as usual for {images}; --layout names another")
    return decided


def half_pruned(pruner: Pruner, without: Iterable[Block] = ()) -> nn.Module:
    """Return a network like those of a search, without some blocks."""
    counts = ChannelCounts(pruner.space.scaled(0.6), frozenset(block.name for block in without))
    return pruner.prune(pruner.space.policy(counts))
