"""Of how many channels widths are a multiple: as the spec says, or what ``auto`` finds on this machine in this format.

A multiple is taken only where a network whose widths lie on it is faster, beyond noise, than one that is narrower and
lies between: all widths are one step of the best multiple so far apart. A multiple on which some group could
not be cut any more is not tried. Time does not depend on weights, so that nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoprune.core.measurement import CONFIDENT
from autoprune.core.space import SearchSpace
from autoprune.cost.latency import cpu_threads
from autoprune.cost.timing_engines import Engine, ForwardCall
from autoprune.errors import AutopruneError
from autoprune.export.convert import timed
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.surgery import Pruner
from autoprune.search.setup.build_costs import timing_batch
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.from_spec import timing_plan

MULTIPLES = (4, 8, 16)
_NARROW = 8  # channels; a group of fewer may stay whole for the sake of the others
_WIDTH = 0.6  # share of the channels near which networks are timed


def with_round_to(context: StudyContext, pruner: Pruner, engine: Engine) -> tuple[StudyContext, Pruner]:
    """Return the context with the multiple decided, and what cuts networks whose widths lie on it.

    Args:
        context: with the latency runtime and format decided.
        pruner: over the space as it is without a multiple, where that is to be decided.
        engine: runs networks while they are timed, in that format.
    """
    if context.spec.space.round_to != "auto":
        return context, pruner
    if context.spec.latency.command:
        step, why = 1, "another machine times"
    else:
        step, why = decide(pruner.space, _racing(context, pruner, engine))
    context.notify(f"kept channels are a multiple of {step} (space.round_to): {why}")
    space = context.spec.space.model_copy(update={"round_to": step})
    decided = replace(context, spec=context.spec.model_copy(update={"space": space}))
    return decided, replace(pruner, space=replace(pruner.space, round_to=step))


Race = Callable[[dict[str, int], dict[str, int]], tuple[float, float]]
"""(widths of one network, widths of another) → time of the first / time of the second, and its standard error."""


def decide(space: SearchSpace, race: Race) -> tuple[int, str]:
    """Return the multiple, and what was measured in a clause.

    Args:
        space: without a multiple.
        race: times two networks of the space in alternation.
    """
    best, said = 1, list[str]()
    for step in MULTIPLES:
        on = {name: width for name in space.by_name if (width := _on(space, name, step, best)) is not None}
        if not on or not _leaves_choices(space, step):
            continue
        try:
            ratio, stderr = race(on, {name: width - best for name, width in on.items()})
        except AutopruneError as error:
            return 1, str(error)
        said.append(f"on multiples of {step} × {ratio:.3f} ± {stderr:.3f} of the time {best} narrower")
        if ratio + CONFIDENT * stderr < 1:
            best = step
    return best, ", ".join(said) or "no group is wide enough for another"


def _leaves_choices(space: SearchSpace, step: int) -> bool:
    """Return whether every group but narrow ones can still be cut."""
    return all(
        group.num_channels < _NARROW
        or any(count % step == 0 for count in space.channel_choices[name] if count < group.num_channels)
        for name, group in space.by_name.items()
    )


def _on(space: SearchSpace, name: str, step: int, narrower: int) -> int | None:
    """Return the width nearest to the usual one that is a multiple of a step, and of no larger one if that can be."""
    counts, whole = space.channel_choices[name], space.by_name[name].num_channels
    able = [one for one in counts if one % step == 0 and one - narrower in counts]
    return min(able, key=lambda one: (one // step % 2 == 0, abs(one - _WIDTH * whole)), default=None)


def _racing(context: StudyContext, pruner: Pruner, engine: Engine) -> Race:
    plan, space = timing_plan(context.spec.latency), pruner.space
    batch = timing_batch(context, pruner.network)

    def prepared(widths: dict[str, int]) -> ForwardCall:
        kept = space.normalized(space.of_cut_numbers(widths))
        network = context.device.place(pruner.prune(space.policy(kept))).eval()
        with cpu_threads(plan.threads):
            return engine.prepare(network, batch, plan.threads)

    def race(one: dict[str, int], other: dict[str, int]) -> tuple[float, float]:
        found = timed(prepared(other), prepared(one), Inputs((), {}), plan)
        return found.ratio, found.ratio_stderr

    return race
