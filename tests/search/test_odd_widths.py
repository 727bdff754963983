"""Where odd widths take longer than even ones, the latency model learns it, and proposals under a limit avoid them."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoprune.core.arrays import Floats
from autoprune.core.budget import Budget, Limit
from autoprune.core.counts import ChannelCounts
from autoprune.core.kernel_widths import KERNEL_WIDTHS
from autoprune.core.space import SearchSpace
from autoprune.cost.cost_model import CostModel
from autoprune.cost.latency_features import WORK
from autoprune.models.cifar_resnet import resnet20
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.search.proposals.knapsack import CutChoices, Knapsack
from autoprune.search.proposals.latency_model import LatencyProbes, Timed, latency_projector
from autoprune.search.proposals.wished_counts import WishedCounts, on_multiple
from autoprune.search.setup.latency_probes import spread

MS = (0.02, 0.004, 0.002, 0.0, 0.1, 3.0, 1.0)  # of each amount of work: widths hardly save any, odd ones cost


@pytest.fixture(scope="module")
def probes() -> tuple[SearchSpace, LatencyProbes]:
    network, example = resnet20().eval(), torch.rand(1, 3, 32, 32)
    groups = find_groups(network, example).cuttable
    space = SearchSpace(groups, {g.name: ("any",) for g in groups}, blocks=find_blocks(network, example, groups))
    shrinks, full = tensor_shrinks(network, groups), {group.name: group.num_channels for group in groups}
    cost = CostModel(network, shrinks, full, example, blocks=space.blocks)
    timed = [Timed(kept, latency(cost, kept)) for kept in (space.full, *spread(space))]
    return space, LatencyProbes(cost, tuple(timed))


def latency(cost: CostModel, kept: ChannelCounts) -> float:
    return float(cost.work(kept) @ np.array(MS))


def odd(counts: ChannelCounts) -> int:
    """Return how many groups have a width that is no multiple of the smallest kernel."""
    return sum(count % KERNEL_WIDTHS[0] > 0 for count in counts.channels.values())


def test_the_model_learns_what_odd_widths_cost(probes: tuple[SearchSpace, LatencyProbes]) -> None:
    space, known = probes
    model, draw, errors = known.model(), random.Random(0), list[float]()
    for _ in range(40):
        kept = space.normalized(
            space.of_cut_numbers({n: draw.choice(choices) for n, choices in space.cut_choices.items()})
        )
        errors.append(float(model.predict(known.cost.work(kept))) / latency(known.cost, kept) - 1)  # type: ignore[arg-type]
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    assert model.coefficients[WORK.index("uneven_4")] > 0


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_limit_is_met_on_multiples_where_more_stays_so(
    probes: tuple[SearchSpace, LatencyProbes], share: float
) -> None:
    space, known = probes
    limit = share * known.timed[0].latency_ms
    projector = latency_projector(space, Budget({"latency_ms": Limit(limit)}), known, [])
    half = WishedCounts({name: 0.6 * count for name, count in space.full.channels.items()})
    found = projector.onto_budget(half)
    assert projector.usage(found) <= 1
    assert odd(found) == 0
    plain = projector._fit_on(1, projector._with_blocks(half.named(space)), projector._parts(None))
    if plain is not None:
        assert projector.cost.measure(found)["mflops"] >= projector.cost.measure(plain)["mflops"]


def test_the_knapsack_under_a_limit_has_even_widths(probes: tuple[SearchSpace, LatencyProbes]) -> None:
    space, known = probes
    limit = 0.6 * known.timed[0].latency_ms
    projector = latency_projector(space, Budget({"latency_ms": Limit(limit)}), known, [])
    penalties: dict[str, Floats] = {
        name: np.array([(1 - n / choices[-1]) ** 2 for n in choices]) for name, choices in space.cut_choices.items()
    }
    found = Knapsack(projector).solve(penalties)
    assert projector.usage(found) <= 1
    assert odd(found) <= 2
    assert latency(known.cost, found) <= 1.1 * limit  # type: ignore[arg-type]


def test_the_least_latency_is_no_more_than_that_of_the_narrowest(probes: tuple[SearchSpace, LatencyProbes]) -> None:
    space, known = probes
    timed = latency_projector(space, Budget({"latency_ms": Limit(1.0)}), known, [])
    assert timed.least("latency_ms") <= timed.smallest()["latency_ms"]
    assert timed.least("mflops") == timed.smallest()["mflops"]


@pytest.mark.parametrize("room", [1.001, 1.2, 2.0, 5.0])
def test_what_is_the_least_can_be_reached_beside_the_other_limits(
    probes: tuple[SearchSpace, LatencyProbes], room: float
) -> None:
    space, known = probes
    unlimited = latency_projector(space, Budget({"latency_ms": Limit(1e-6)}), known, [])
    narrowest, fastest = unlimited.smallest(), unlimited.least("latency_ms")
    assert fastest < narrowest["latency_ms"]  # of wider layers, so that both leasts together are out of reach
    limited = replace(unlimited, budget=Budget({"mflops": Limit(room * narrowest["mflops"])}))
    least = limited.least("latency_ms")
    assert least >= fastest
    both = Budget({**limited.budget.limits, "latency_ms": Limit(1.0001 * least)})
    for onto in (both, Budget({n: Limit(1.0001 * v) for n, v in replace(limited, budget=both).lowest().items()})):
        projector = replace(limited, budget=onto)
        assert projector.usage(projector.onto_budget(WishedCounts.of(space.full))) <= 1


def test_widths_are_looked_at_in_sixteenths_where_latency_is_predicted(
    probes: tuple[SearchSpace, LatencyProbes],
) -> None:
    space, _ = probes
    choices = CutChoices(space)
    looked_at = np.take_along_axis(choices.numbers, choices.even_grid, axis=1)
    for name, numbers in zip(choices.names, looked_at.tolist(), strict=True):
        whole = space.cut_choices[name][-1]
        if whole >= 32:
            sixteenths = [whole * number // 16 for number in range(17)]
            least = space.cut_choices[name][0]
            assert numbers == [one if one >= least else least for one in sixteenths]


@pytest.mark.parametrize(
    ("count", "multiple", "found"),
    [(9.0, 1, 9.0), (9.0, 4, 8), (1.0, 4, 8), (0.0, 16, 16), (15.0, 4, 16), (70.0, 4, 64)],
)
def test_a_count_on_a_multiple_is_near_and_exists(
    probes: tuple[SearchSpace, LatencyProbes], count: float, multiple: int, found: float
) -> None:
    space, _ = probes
    wide = next(name for name, choices in space.channel_choices.items() if choices[-1] == 64)
    assert on_multiple(count, multiple, space, wide) == found
