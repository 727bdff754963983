"""How well looks foretell: by hand on a few networks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autoprune.analysis.foretelling import (
    DOUBT,
    estimated_rises,
    foretelling,
    kept_by,
    log_foretold,
    screened_front,
)
from autoprune.core.budget import Budget
from autoprune.core.counts import ChannelCounts
from autoprune.core.measurement import Measurement
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.screened import ScreenedNetwork
from autoprune.core.trial import Candidate, Completed, Failed, Trial

CHANNELS = {"conv": 10}


def network(number: int, kept: int, closed: float, compensated: float | None = None) -> ScreenedNetwork:
    costs = Measurement({"mflops": float(kept)})
    return ScreenedNetwork(
        number, "curve", number, "knapsack", ChannelCounts({"conv": kept}), Budget(), costs, closed, compensated
    )


def trial(number: int, kept: int, loss: float, origin: str = "screened:knapsack") -> Trial:
    policy = PruningPolicy({"conv": GroupPolicy(1 - kept / 10, "obs")})
    return Trial(Candidate(number, policy, 0, origin), Completed(Measurement({"loss": loss})), {}, 0)


def test_what_had_no_second_look_is_scaled_by_what_the_pass_left_of_the_others() -> None:
    known = [network(0, 5, 0.4, 0.2), network(1, 6, 0.3, 0.12), network(2, 4, 0.5, 0.3), network(3, 3, 0.8)]
    assert estimated_rises(known).tolist() == pytest.approx([0.2, 0.12, 0.3, 0.4])
    assert estimated_rises([network(0, 5, 0.4)]).tolist() == [0.4]
    assert estimated_rises([]).shape == (0,)


def test_that_the_closed_form_thinks_too_ill_of_dropped_blocks_is_learnt() -> None:
    def lacking(number: int, blocks: int, closed: float, compensated: float | None) -> ScreenedNetwork:
        gone = frozenset(f"b{n}" for n in range(blocks))
        one = network(number, 5, closed, compensated)
        return replace(one, counts=ChannelCounts({"conv": 5}, gone))

    seen = [(0, 0.1), (0, 0.2), (0, 0.4), (1, 1.0), (1, 2.0), (2, 4.0), (2, 8.0)]
    known = [
        lacking(n, blocks, closed, 0.3 * closed * 0.1**blocks) for n, (blocks, closed) in enumerate([*seen, *seen])
    ]
    found = estimated_rises([*known, lacking(14, 0, 0.15, None), lacking(15, 1, 0.5, None)])
    assert found[:14].tolist() == [one.compensated for one in known]
    assert found[14:].tolist() == pytest.approx([0.045, 0.015], rel=0.15)


def test_a_policy_keeps_what_its_counts_say() -> None:
    policy = PruningPolicy({"conv": GroupPolicy(0.7, "obs")}, dropped_blocks=("b",))
    assert kept_by(policy, CHANNELS) == ((("conv", 3),), frozenset({"b"}))


def test_the_line_through_looks_and_final_losses_is_found() -> None:
    networks = [network(n, 9 - n, 0.1 * (n + 1)) for n in range(6)]
    finals = [math.exp(0.5 * math.log(0.05 + 0.1 * (n + 1)) - 1) for n in range(6)]
    trials = [trial(n, 9 - n, loss) for n, loss in enumerate(finals)]
    found = foretelling(networks, trials, CHANNELS, 0.05)
    assert (found.pairs, found.agreement) == (6, 1.0)
    assert (found.slope, found.offset) == pytest.approx((0.5, -1.0))
    assert np.exp(found.log_losses(np.array([0.1, 0.6]), 0.05)).tolist() == pytest.approx([finals[0], finals[5]])


def test_what_does_not_count_is_left_out_and_few_pairs_leave_doubt() -> None:
    networks = [network(n, 9 - n, 0.1 * (n + 1)) for n in range(6)]
    failed = Trial(trial(9, 9, 1.0).candidate, Failed("E", "m"), {}, 0)
    others = [failed, trial(7, 1, 0.2), trial(8, 8, 9.0, origin="pick")]
    found = foretelling(networks, [*others, trial(0, 9, 0.5)], CHANNELS, 0.0)
    assert (found.pairs, found.is_known, found.slope, found.deviation) == (1, False, 1.0, DOUBT)
    assert float(found.log_losses(np.array([0.1]), 0.0)[0]) == pytest.approx(math.log(0.5))
    assert foretelling(networks, [], CHANNELS, 0.0).pairs == 0
    assert foretelling(networks, [trial(0, 9, -3.0)], CHANNELS, 0.0).pairs == 0, "no logarithm"
    assert np.isfinite(log_foretold(np.array([0.0, -1.0]), 0.0)).all()


def test_the_screened_front_falls_as_networks_cost_more() -> None:
    known = [network(0, 3, 0.9), network(1, 5, 0.5), network(2, 6, 0.6), network(3, 8, 0.1), network(4, 5, 0.7)]
    assert [one.number for one in screened_front(known, "mflops")] == [0, 1, 3]
    assert screened_front(known, "latency_ms") == []
