"""What runs networks while they are timed: as the spec says, or what ``auto`` finds on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from autoprune.cost.timing_engines import Engine
from autoprune.errors import StudyMismatchError
from autoprune.export.timing_runtimes import ONNX, check_takes, decide_engine, engine_of
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.build_costs import timing_batch
from autoprune.search.setup.choose_layout import half_pruned
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.from_spec import timing_plan
from autoprune.study.dense_facts import read_dense_facts


def named_engine(context: StudyContext) -> Engine | None:
    """Return the engine that the spec names; ``None`` if it leaves the choice to ``auto``.

    Where a command times, that is ONNX Runtime.
    """
    name = ONNX if context.spec.latency.command else context.spec.latency.runtime
    return None if name == "auto" else engine_of(name, context.folder.template)


def check_engine_takes(context: StudyContext, engine: Engine | None) -> Callable[[nn.Module], None]:
    """Return what refuses a network that the engine does not take, before time is spent on its training.

    What it returns takes the network, in eval mode on the device, and raises ExportError or ModelError.
    """

    def check(network: nn.Module) -> None:
        if engine is not None:
            check_takes(engine, network, timing_batch(context, network))

    return check


def _say_if_one_batch(context: StudyContext, network: nn.Module) -> None:
    if timing_batch(context, network).size is None:
        context.notify("latency is that of one validation batch as it is, whose examples cannot be told apart")


def with_latency_engine(context: StudyContext, pruner: Pruner, named: Engine | None) -> tuple[StudyContext, Engine]:
    """Return the context with the latency runtime decided, and what runs networks by it.

    What the dense network was timed in already stays.

    Args:
        context: with the device and the layout decided.
        pruner: knows the dense network, in eval mode and placed.
        named: the engine that the spec names, which is then taken.

    Raises:
        StudyMismatchError: if the study was timed on another machine and would go on here, or the other way round.
    """
    _say_if_one_batch(context, pruner.network)
    _check_same_place(context)
    if named is not None:
        return _with_runtime(context, named.name) if context.spec.latency.command else context, named
    spec = context.spec
    if context.folder.dense_facts.exists():
        name = read_dense_facts(context.folder).latency_runtime
        engine = engine_of(name, context.folder.template)
    else:
        pruned = context.device.place(half_pruned(pruner, pruner.space.blocks[:1])).eval()
        plan, batch = timing_plan(spec.latency), timing_batch(context, pruner.network)
        networks, kept = (pruner.network, pruned), context.folder.template
        name, engine, why = decide_engine(plan, context.device.device, *networks, batch, kept)
        context.notify(why)
    return _with_runtime(context, name), engine


def _with_runtime(context: StudyContext, name: str) -> StudyContext:
    latency = context.spec.latency.model_copy(update={"runtime": name})
    return replace(context, spec=context.spec.model_copy(update={"latency": latency}))


def _check_same_place(context: StudyContext) -> None:
    """Raise if the dense network was timed by a command, and the spec has none; or the other way round."""
    if not context.folder.dense_facts.exists():
        return
    host, command = read_dense_facts(context.folder).latency_host, context.spec.latency.command
    if host is not None and not command:
        raise StudyMismatchError(
            f"this study's latency is that of {host.described}, and no command is given that times there; give "
            f"--latency-command, or begin a new study in another folder"
        )
    if host is None and command:
        raise StudyMismatchError(
            f"this study's latency was timed where it was searched, and now the command {command!r} is given; a front "
            f"mixes no machines: leave the command out (--latency-command ''), or begin a new study in another folder"
        )
