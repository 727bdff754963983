"""The memory layout that a study's networks have: as the spec says, or the faster one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from autoprune.core.channel_groups import Block
from autoprune.core.counts import ChannelCounts
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.context import StudyContext
from autoprune.study.dense_facts import read_dense_facts
from autoprune.training.device.runtime import Runtime
from autoprune.training.memory_layout import fastest_layout


def with_layout(context: StudyContext, pruner: Pruner) -> StudyContext:
    """Return the context with the layout decided: as given, or the faster one for a half-pruned network."""
    spec = context.spec
    device = _measured_layout(context, pruner) if spec.runtime.layout == "auto" else context.device
    layout = "channels_last" if device.channels_last else "contiguous"
    runtime = spec.runtime.model_copy(update={"layout": layout})
    return replace(context, spec=spec.model_copy(update={"runtime": runtime}), device=device)


def _measured_layout(context: StudyContext, pruner: Pruner) -> Runtime:
    spec, device = context.spec, context.device
    if context.folder.dense_facts.exists():  # the dense network was timed in it already
        return replace(device, channels_last=read_dense_facts(context.folder).layout == "channels_last")
    context.notify("choosing the faster memory layout")
    return fastest_layout(half_pruned(pruner), context.task, spec.finetune.batch_size, device, spec.seed)


def half_pruned(pruner: Pruner, without: Iterable[Block] = ()) -> nn.Module:
    """Return a network like those of a search, without some blocks."""
    groups = pruner.space.by_name
    half = {name: pruner.space.nearest(name, group.num_channels * 0.6) for name, group in groups.items()}
    counts = ChannelCounts(half, frozenset(block.name for block in without))
    return pruner.prune(pruner.space.policy(counts))
