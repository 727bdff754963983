"""What the surrogate learns from trials, against a truth that is known."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.proposals.loss_model import EXPONENTS, Evidence, draw


def evidence_of(
    weights: list[float], count: int, noise: float = 0.01, exponent: float = 1.0, effect: float = 0.0, seed: int = 0
) -> Evidence:
    """Return trials of random cuts whose log loss follows the model."""
    rng = np.random.default_rng(seed)
    rises = rng.exponential(0.3, (count, len(weights)))
    criteria = rng.integers(0, 2, (count, len(weights)))
    scaled = rises**exponent
    losses = -1 + 0.5 * (scaled * (np.array(weights) + effect * criteria)).sum(axis=1) + rng.normal(0, noise, count)
    return Evidence(rises, criteria, losses, 2)


def test_it_learns_which_cuts_cost_more_than_they_seemed_to() -> None:
    belief = draw(evidence_of([0.4, 1.0, 1.6, 1.0], 200), np.random.default_rng(0), boldness=0)
    assert belief.weights[0] < 0.7 * belief.weights[1]
    assert belief.weights[2] > 1.3 * belief.weights[1]


def test_it_learns_which_criterion_is_better() -> None:
    worse = draw(evidence_of([1.0] * 4, 200, effect=0.4), np.random.default_rng(0), boldness=0)
    better = draw(evidence_of([1.0] * 4, 200, effect=-0.4), np.random.default_rng(0), boldness=0)
    assert worse.criteria[0] == better.criteria[0] == 0
    assert worse.criteria[1] > 0.1 > -0.1 > better.criteria[1]


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_it_finds_how_much_of_a_large_rise_the_finetune_undoes(exponent: float) -> None:
    found = draw(evidence_of([1.0] * 4, 200, exponent=exponent), np.random.default_rng(0), boldness=0)
    assert found.exponent == exponent


def test_without_trials_it_draws_around_what_was_measured() -> None:
    nothing = Evidence(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64), np.zeros(0), 2)
    drawn = [draw(nothing, np.random.default_rng(seed)) for seed in range(400)]
    weights = np.array([belief.weights for belief in drawn])
    assert weights.mean(axis=0) == pytest.approx(1.0, abs=0.1)
    assert weights.std() > 0.3
    assert {belief.exponent for belief in drawn} == set(EXPONENTS)
    assert draw(nothing, np.random.default_rng(0), boldness=0).weights.tolist() == [1, 1, 1]


def test_draws_come_closer_together_with_every_trial() -> None:
    spread = [
        np.std([draw(evidence_of([1.0] * 4, count), np.random.default_rng(s)).weights for s in range(60)])
        for count in (5, 40, 300)
    ]
    assert spread[0] > spread[1] > spread[2]


def test_a_draw_is_a_function_of_evidence_and_seed() -> None:
    one, other = (draw(evidence_of([1.0, 0.5], 9), np.random.default_rng(4)) for _ in range(2))
    assert one.weights.tolist() == other.weights.tolist()
    assert one.weights.tolist() != draw(evidence_of([1.0, 0.5], 9), np.random.default_rng(5)).weights.tolist()


def test_weights_stay_positive_and_equal_losses_do_no_harm() -> None:
    same = Evidence(np.full((6, 2), 0.1), np.zeros((6, 2), dtype=np.int64), np.full(6, -1.0), 1)
    belief = draw(same, np.random.default_rng(0))
    assert np.isfinite(belief.weights).all()
    assert (belief.weights > 0).all()
    assert len(belief.criteria) == 1
