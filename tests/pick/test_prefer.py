"""The fastest or the smallest of trials that are equally good: chosen without a contest, and said on the card."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.cli.pick import PickRequest
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Candidate, Completed, Trial
from autoprune.errors import UsageError
from autoprune.export.card_origin import FinetuneFacts, PickedTrial
from autoprune.pick.card_text import _preferred
from autoprune.pick.choose_trials import Wish, choose_trials
from autoprune.study.spec import StudySpec


def trial(number: int, loss: float, latency_ms: float) -> Trial:
    values = {"accuracy": 0.9, "loss": loss, "mflops": 5.0, "latency_ms": latency_ms}
    policy = PruningPolicy.uniform(0.1 * (number + 1), "l1", names=["conv"])
    return Trial(Candidate(number, policy, 0, "sampler:test", Budget()), Completed(Measurement(values)), {}, 0)


@pytest.fixture
def view() -> Any:
    trials = (trial(0, 0.1, 3.0), trial(1, 0.2, 2.0), trial(2, 0.3, 1.0))
    return SimpleNamespace(spec=StudySpec(), trials=trials, budget=Budget(), dense=Measurement({"mflops": 9.0}))


def chosen(view: Any, **wish: Any) -> list[int]:
    return [one.number for one in choose_trials(view, Wish({}, **wish))[1]]


def test_the_fastest_is_finished_without_a_contest(view: Any) -> None:
    assert chosen(view) == [2]
    assert chosen(view, prefer="latency") == [2]
    assert chosen(view, prefer="latency", top=2) == [2, 1]
    pick = view.spec.pick.model_copy(update={"prefer": "accuracy"})
    view.spec = view.spec.model_copy(update={"pick": pick})
    assert chosen(view) == [0, 1, 2]


def test_what_was_not_measured_cannot_be_preferred(view: Any) -> None:
    with pytest.raises(UsageError, match="size was preferred, and not every trial has size_mb"):
        chosen(view, prefer="size")
    pick = view.spec.pick.model_copy(update={"prefer": "size"})
    view.spec = view.spec.model_copy(update={"pick": pick})
    assert chosen(view) == [0, 1, 2], "a study's own preference rests where it cannot be told"


def test_one_trial_alone_leaves_nothing_to_prefer() -> None:
    with pytest.raises(UsageError, match="--trial finishes one trial alone, and --prefer chooses between several"):
        PickRequest.of({"number": 3, "prefer": "latency"})


def test_a_card_says_what_was_preferred() -> None:
    training = FinetuneFacts(1.0, 32, 0.01, 0.0, "sgd", True, (1.0,), 1, "all", "finetune")
    pick = PickedTrial(3, "x", Budget(), {}, None, None, (), None, {}, False, training, None, None)
    assert _preferred(pick) == []
    assert PickedTrial.from_json(pick.to_json()) == pick
    fast = replace(pick, prefer="latency")
    assert "the fastest" in _preferred(fast)[0]
    assert PickedTrial.from_json(fast.to_json()) == fast
