"""What says what a network of a space costs: the closed-form cost model, and the timer."""

from __future__ import annotations

from torch import nn

from autoprune.core.int8_overhead import Int8Overhead
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import NetworkTimer, Timer
from autoprune.cost.timing_engines import Engine
from autoprune.export.examples import timing_inputs
from autoprune.export.remote_timer import RemoteTimer
from autoprune.export.timing_command import TimingCommand
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.from_spec import timing_plan
from autoprune.study.dense_facts import read_dense_facts


def cost_model(network: nn.Module, space: SearchSpace, example: object, int8: Int8Overhead | None = None) -> CostModel:
    """Return the closed-form costs over a space.

    Args:
        network: the dense network, in eval mode.
        space: what can be pruned in it.
        example: one input, as :meth:`Inputs.of` takes it.
        int8: what files in int8 hold beside weights, if sizes are to be theirs.
    """
    return CostModel(
        network,
        tensor_shrinks(network, space.groups),
        {group.name: group.num_channels for group in space.groups},
        example,
        blocks=space.blocks,
        masked_layers=space.mask.layers if space.mask else (),
        mask_pattern=space.mask.pattern if space.mask else "weight",
        int8=int8,
    )


def timing_batch(context: StudyContext, network: nn.Module) -> Inputs:
    """Return one batch as networks are timed on it, on the device: zeros if inputs are one tensor of real numbers."""
    return context.device.place_batch(timing_inputs(context.example(network), context.spec.latency.batch))


def timer_of(context: StudyContext, network: nn.Module, engine: Engine) -> NetworkTimer:
    """Return what times networks against the dense one: here, or on the machine that the spec's command reaches.

    Args:
        context: with the layout and the latency runtime decided.
        network: the dense network, in eval mode, placed on the device.
        engine: what runs networks while they are timed.
    """
    wish, batch = context.spec.latency, timing_batch(context, network)
    if not wish.command:
        return Timer(network, batch, timing_plan(wish), engine)
    facts = context.folder.dense_facts
    host = read_dense_facts(context.folder).latency_host if facts.exists() else None
    command = TimingCommand(wish.command, wish.command_seconds)
    return RemoteTimer(network, batch, timing_plan(wish), command, context.notify, host)
