"""The passes that make a trace: one as in evaluation, one as in training, so that no layer goes unseen."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.layers.kinds import has_heads
from autoprune.pruning.tracing.channel_union import Channels
from autoprune.pruning.tracing.rule_helpers import Findings, Turns
from autoprune.pruning.tracing.safe_forward import plain_attention
from autoprune.pruning.tracing.tracer import Tracer

OUTPUT = "its channels are the network's output"


@dataclass(frozen=True)
class Trace:
    """What the passes of one network showed.

    Attributes:
        channels: which are one and the same, and which are frozen.
        findings: what else was seen.
        is_exact: whether every number of the evaluation pass was in float64.
    """

    channels: Channels
    findings: Findings
    is_exact: bool


def trace(
    network: nn.Module,
    example: Inputs,
    training: tuple[nn.Module, Inputs] | None = None,
    seconds: float = float("inf"),
    turns: Turns | None = None,
) -> Trace:
    """Run a network in evaluation mode, and a copy in training mode, and return what both passes showed.

    Args:
        network: in eval mode, on the CPU.
        example: its inputs, on the CPU.
        training: a copy in training mode, which the pass may change, and its input; ``None`` to leave it out.
        seconds: of processor time that this may take.
        turns: folds of channels in which another part gets shorter than usual.

    Raises:
        OutOfTime: if it takes longer.
    """
    deadline = time.process_time() + seconds
    findings, channels = Findings(turns=turns or {}), Channels()
    tracer = Tracer(network, findings, channels, deadline)
    _run(tracer, example)
    if training is not None:
        twin, inputs = training
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            _run(Tracer(twin, findings, channels, deadline), inputs)
    return Trace(channels, findings, tracer.is_exact)


def _run(tracer: Tracer, example: Inputs) -> None:
    with ExitStack() as hooks:
        hooks.enter_context(plain_attention())
        for path, module in tracer.network.named_modules():
            for handle in _watch(tracer, path, module):
                hooks.callback(handle.remove)
        with torch.inference_mode(), tracer:
            result = example.run(tracer.network)
    tracer.end(result, OUTPUT)


def _watch(tracer: Tracer, path: str, module: nn.Module) -> Iterable[torch.utils.hooks.RemovableHandle]:
    is_opaque = has_heads(module)

    def enter(*_: object) -> None:
        tracer.enter(path, is_opaque)

    def leave(module: nn.Module, args: object, kwargs: object, result: object) -> None:
        tracer.leave(path, module, is_opaque, (args, kwargs), result)

    yield module.register_forward_pre_hook(enter)
    yield module.register_forward_hook(leave, with_kwargs=True)
