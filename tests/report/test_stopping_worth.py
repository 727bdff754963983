"""What the report says of stopped trials: what they saved, and whether the checks show the rule right."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_studies import answered, measurement, trial, view_of

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.core.trial import Completed, Stopped, Trial
from autoprune.report.content.stopping_worth import StoppingFacts, stopping_facts, stopping_notes
from autoprune.report.content.summary import summarise

COST = Measurement({"mflops": 49.0})


def looked(accuracy: float, at_rung: float, final: float) -> Measurement:
    return measurement(accuracy, 49.0, loss=final).merged(Measurement({"recalibrated_loss": at_rung}))


def stopped(number: int, **seconds: float) -> Trial:
    return replace(trial(number, Stopped("hopeless", COST)), seconds=seconds)


def check(number: int, accuracy: float) -> Trial:
    return trial(number, Completed(measurement(accuracy, 49.0), spared="hopeless"))


def test_seconds_saved_are_the_median_of_what_was_skipped() -> None:
    """Completed trials take 10 s of fine-tune and 1.5 s of scoring."""
    done = [trial(n, measurement(0.9, 49.0)) for n in range(3)]
    late = replace(trial(3, measurement(0.9, 49.0)), seconds={"finetune": 1000.0, "score": 1.5})
    facts = stopping_facts([*done, late, stopped(4, prune=0.5, rung=0.5), stopped(5, finetune=6.0, rung=1.0)], ACCURACY)
    assert facts.stopped == 2
    assert facts.seconds_saved == pytest.approx((10 + 1.5) + (4 + 1.5))
    assert facts.seconds_looking == 1.5
    spent = 3 * 12 + 1001.5 + 1.0 + 7.0
    assert facts.share_saved == pytest.approx(17 / (spent - 1.5 + 17))


def test_stopped_trials_alone_save_nothing_that_is_known() -> None:
    assert stopping_facts([stopped(0, prune=1.0)], ACCURACY) == StoppingFacts(stopped=1)
    assert stopping_facts((), ACCURACY) == StoppingFacts()


@pytest.mark.parametrize(
    ("accuracy", "wrong", "within_noise"), [(0.99, 1, 0), (0.951, 0, 1), (0.949, 0, 1), (0.80, 0, 0)]
)
def test_a_check_is_compared_with_the_best_before_it(accuracy: float, wrong: int, within_noise: int) -> None:
    """One standard error of the difference is about 1.3 % at 95 %."""
    trials = [trial(0, measurement(0.90, 49.0)), trial(1, measurement(0.95, 49.0)), check(2, accuracy)]
    after, dearer = trial(3, measurement(0.999, 49.0)), trial(1, measurement(0.999, 70.0))
    for found in (stopping_facts([*trials, after], ACCURACY), stopping_facts([dearer, *trials], ACCURACY)):
        assert (found.checks, found.wrong, found.within_noise) == (1, wrong, within_noise)


def test_a_check_and_its_rival_are_compared_image_by_image() -> None:
    """It is right wherever the best before it is and on 6 of 400 images more; unpaired, that would drown in noise."""
    before, after = ([image >= wrong for image in range(400)] for wrong in (46, 40))
    spared = replace(answered(after, 49.0), spared="hopeless")
    facts = stopping_facts([trial(0, answered(before, 49.0)), trial(1, spared)], ACCURACY)
    assert (facts.wrong, facts.within_noise) == (1, 0)


def test_a_check_is_not_compared_with_what_misses_its_budget() -> None:
    fast, slow = Budget.parse({"mflops": 50, "latency_ms": 3}), measurement(0.97, 49.0, latency_ms=9.0)
    spared = trial(2, Completed(measurement(0.95, 49.0, latency_ms=2.5), spared="hopeless"), budget=fast)
    before = trial(0, measurement(0.90, 49.0, latency_ms=2.5))
    assert stopping_facts([before, trial(1, slow), spared], ACCURACY).wrong == 1


def test_a_check_without_rivals_is_neither_right_nor_wrong() -> None:
    facts = stopping_facts([check(0, 0.9)], ACCURACY)
    assert (facts.checks, facts.wrong, facts.within_noise) == (1, 0, 0)


def test_rank_agreement_is_told_for_each_rung_that_enough_trials_have() -> None:
    trials = [trial(n, looked(0.9, 1.0 + n, 0.1 + 0.1 * n)) for n in range(4)]
    assert stopping_facts(trials, ACCURACY).agreement == {"recalibrated_loss": 1.0}
    assert stopping_facts(trials[:2], ACCURACY).agreement == {}
    other = trial(4, looked(0.9, 9.0, 0.1))
    assert stopping_facts([*trials, other], ACCURACY).agreement["recalibrated_loss"] == pytest.approx(0.3, abs=0.11)


def test_the_sentence_says_all_and_is_silent_if_nothing_happened() -> None:
    facts = StoppingFacts(3, 65.0, 4.0, 0.12, 1, 0, 1, {"recalibrated_loss": 0.712, "midway_loss": 0.93})
    assert stopping_notes(facts) == [
        "3 trials were stopped early, which saved about 65 s (12 % of the search; looking took 4 s); 1 more ran to the "
        "end as a check: 0 beat all trials before them beyond noise, 1 came within noise; rank agreement with the "
        "final loss: "
        "0.71 after recalibration, 0.93 half-way through the fine-tune"
    ]
    assert stopping_notes(StoppingFacts(1, 5.0))[0].endswith("none ran to the end as a check yet")
    assert stopping_notes(StoppingFacts(seconds_looking=3.0, agreement={"midway_loss": 0.9})) == []


def test_the_report_holds_it(tmp_path) -> None:
    summary = summarise(view_of(tmp_path, [trial(0, measurement(0.9, 49.0)), stopped(1)]))
    assert any(note.startswith("1 trial was stopped early") for note in summary.notes)
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))["stopping"]
    assert (data["stopped"], data["checks"], data["seconds_saved"]) == (1, 0, 11.5)
