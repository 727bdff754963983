"""A few networks timed before the search, so that latency can be predicted from its first proposal on.

Measured once per study and stored in its folder: copies of the dense network with channels cut, blocks dropped, or
both, spread over the space. Nothing is trained, since time does not depend on the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.json_values import parse_json
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency import NetworkTimer, measured_latency
from autoprune.cost.timing_plan import TimingPlan
from autoprune.pruning.surgery import Pruner
from autoprune.search.proposals.latency_model import LatencyProbes, Timed
from autoprune.search.setup.context import StudyContext
from autoprune.search.setup.once import once, unless_damaged

WIDTHS = (0.7, 0.5, 0.25)  # shares of all channels; most counts are odd ones, as in proposals
DEPTHS = (1 / 3, 2 / 3, 1.0)  # shares of the blocks that can be dropped
SECONDS_EACH = 1.5  # a block holds fewer calls where the dense network is so slow that a probe would take longer
FEWEST_CALLS = 3  # but not fewer than this: the first call after another network's finds cold caches


def needs_probes(budget: Budget) -> bool:
    """Return whether proposals have to lie on a limit on latency; only then do they follow what was timed."""
    return "latency_ms" in budget.limits


def latency_probes(
    context: StudyContext, pruner: Pruner, cost: CostModel, timer: NetworkTimer, dense_ms: float
) -> LatencyProbes:
    """Return timed networks of the space, the dense one first: read from the study, or timed now and stored.

    Args:
        context: of the study.
        pruner: cuts by each group's first criterion.
        cost: closed-form costs and work over the pruner's space.
        timer: times networks against the dense one. What it timed otherwise, or in another runtime, is not read.
        dense_ms: the study's reference latency of the dense network.

    Raises:
        NonFiniteError: if the clock did not advance.
        TimingError: if another machine is to time them, and does not.
    """
    where = {name: value for name, value in context.device.describe().items() if name not in ("precision", "threads")}
    masks = {f"{layer}:weights": units for layer, units in pruner.space.mask_choices.items()}
    every = {**pruner.space.cut_choices, **masks}
    choices = {name: [counts[0], counts[-1]] for name, counts in every.items()}
    settings = {"latency": timer.plan.to_json(), "dense_ms": dense_ms, "runtime": where, "space": choices}

    def measure() -> list[Timed]:
        timed = _timed(context, pruner, timer, dense_ms)
        if len(timed) > 2:
            error = LatencyProbes(cost, tuple(timed)).error
            context.notify(f"latency is predicted within {100 * error:.0f} % (each of them from the others)")
        return timed

    timed = once(
        context.folder.latency_probes,
        unless_damaged(partial(_stored, settings, pruner.space)),
        measure,
        lambda made: json.dumps({"settings": settings, "probes": _to_json(made, pruner.space)}, indent=1),
    )
    return LatencyProbes(cost, tuple(timed))


def _timed(context: StudyContext, pruner: Pruner, timer: NetworkTimer, dense_ms: float) -> list[Timed]:
    space, networks = pruner.space, list(spread(pruner.space))
    context.notify(f"timing {len(networks)} pruned copies, untrained, to learn what latency depends on")
    timed = [Timed(space.full, dense_ms)]
    for kept in networks:
        network = context.device.place(pruner.prune(space.policy(kept))).eval()
        found = timer.compare(network, calls=calls(timer.plan, dense_ms))
        timed.append(Timed(kept, measured_latency(found, dense_ms)[0]))
    return timed


def calls(plan: TimingPlan, dense_ms: float) -> int:
    """Return the calls in a block of a probe: as many as in a trial's, or as the time allows.

    >>> calls(TimingPlan(blocks=10, calls=9), 4.0), calls(TimingPlan(blocks=10, calls=9), 15.0)
    (9, 5)
    """
    return min(plan.calls, max(FEWEST_CALLS, int(SECONDS_EACH * 1e3 / (2 * plan.blocks * dense_ms))))


def spread(space: SearchSpace) -> Iterator[ChannelCounts]:
    """Yield the counts of pruned networks: all widths scaled alike, the narrowest, blocks dropped, and the smallest.

    Args:
        space: masks are left out, since they save no time.
    """
    narrowest = {name: choices[0] for name, choices in space.channel_choices.items()}
    scaled = [space.scaled(share) for share in WIDTHS]
    names = [block.name for block in space.blocks]
    shorter = [dict.fromkeys(_evenly(names, round(share * len(names))), 0) for share in DEPTHS] if names else []
    both = [{**scaled[1], **shorter[0]}, {**narrowest, **shorter[-1]}] if names else []
    seen = [space.full]
    for given in (*scaled, narrowest, *shorter, *both):
        kept = space.normalized(space.of_cut_numbers(given))
        if kept not in seen:
            seen.append(kept)
            yield kept


def _evenly(names: list[str], count: int) -> list[str]:
    """Return some of the names, evenly spread."""
    return [names[int((place + 0.5) * len(names) / count)] for place in range(count)]


def _to_json(timed: list[Timed], space: SearchSpace) -> list[dict[str, object]]:
    return [{"latency_ms": one.latency_ms, "kept": space.cut_numbers(one.kept)} for one in timed]


def _stored(settings: Mapping[str, object], space: SearchSpace, path: Path) -> list[Timed] | None:
    """Return the stored networks; ``None`` if they were timed by other settings."""
    stored = parse_json(path.read_text(encoding="utf-8"))
    before = stored["settings"]
    latency = {"runtime": "torch", **before["latency"]}  # as it was before there was a choice
    if {**before, "latency": latency} != settings:
        return None
    return [
        Timed(space.of_cut_numbers({str(k): int(v) for k, v in one["kept"].items()}), float(one["latency_ms"]))
        for one in stored["probes"]
    ]
