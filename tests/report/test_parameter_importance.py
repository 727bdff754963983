"""Importance finds what matters, leaves chance to chance, and says whom it looked at."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from fake_studies import BUDGET, measurement, trial
from scipy.stats import kruskal

from autoprune.core.budget import Budget
from autoprune.core.metrics import ACCURACY
from autoprune.core.policy import GroupPolicy, PruningPolicy
from autoprune.core.trial import Trial
from autoprune.report.content.parameter_importance import bins, importance, parameters


def made(count: int, matters: float, mflops: float = 49.0) -> list[Trial]:
    """Return trials whose loss rises with one group's sparsity, and by a criterion of another, and by noise."""
    stream = random.Random(0)
    found = []
    for number in range(count):
        groups = {name: GroupPolicy(stream.choice([0.0, 0.25, 0.5, 0.75]), "l1") for name in "abcd"}
        groups["b"] = GroupPolicy(0.5, stream.choice(["l1", "l2", "fisher", "fpgm", "taylor", "random"]))
        loss = 0.1 + matters * groups["a"].sparsity + matters * 0.5 * (groups["b"].importance == "l2")
        one = trial(number, measurement(0.95, mflops, loss=loss + stream.gauss(0, 0.02)))
        found.append(replace(one, candidate=replace(one.candidate, policy=PruningPolicy(groups))))
    return found


def test_what_matters_comes_first_and_beyond_chance() -> None:
    found = importance(made(200, 0.2), BUDGET, ACCURACY)
    names = list(found.shares)
    assert names[:2] == ["a: sparsity", "b: criterion"]
    assert found.shares[names[0]] > found.shares[names[1]] > found.chance > found.shares[names[2]]
    assert sum(found.shares.values()) < 1.1
    assert found.trials == 200
    assert "90–100 % of 50 MFLOPs" in found.scope


def test_noise_is_within_chance() -> None:
    found = importance(made(200, 0.0), BUDGET, ACCURACY)
    assert max(found.shares.values()) <= found.chance


def test_the_share_is_what_kruskal_and_wallis_give() -> None:
    trials = made(60, 0.1)
    place = bins(parameters([one.candidate.policy for one in trials])["a: sparsity"])
    losses = np.array([one.outcome.measurement["loss"] for one in trials])
    count, statistic = place.max() + 1, kruskal(*(losses[place == n] for n in range(place.max() + 1))).statistic
    share = importance(trials, BUDGET, ACCURACY).shares["a: sparsity"]
    assert share == pytest.approx((statistic - count + 1) / (60 - count))


def test_trials_of_another_cost_count_only_where_there_are_too_few() -> None:
    cheap = [replace(one, candidate=replace(one.candidate, number=100 + n)) for n, one in enumerate(made(40, 0.2, 20))]
    assert importance([*made(15, 0.2), *cheap], BUDGET, ACCURACY).trials == 15
    found = importance([*made(11, 0.2), *cheap], BUDGET, ACCURACY)
    assert (found.trials, found.scope) == (51, "completed trials of any cost")
    assert importance(made(30, 0.2), Budget(), ACCURACY).trials == 30


def test_too_few_trials_and_no_choice_say_nothing() -> None:
    assert importance(made(11, 0.2), BUDGET, ACCURACY).shares == {}
    assert importance([], BUDGET, ACCURACY).trials == 0
    assert importance([trial(n, measurement(0.9, 49)) for n in range(20)], BUDGET, ACCURACY).shares == {}
