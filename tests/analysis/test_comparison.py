"""What the search was worth: verdicts with intervals, in words and as JSON, and what cannot be told."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from fake_studies import DENSE, answered, measurement, trial

from autoprune.analysis.comparison import Comparison, Scored, compare, scored
from autoprune.analysis.comparison_notes import chance_notes
from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY
from autoprune.core.paired_scores import PairedScores
from autoprune.core.trial import Completed, Trial
from autoprune.report.content.summary import Summary, summarise
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]
IMAGES = 400


def right(*wrong: range) -> list[bool]:
    """Return hits on all images but these."""
    missed = {index for indices in wrong for index in indices}
    return [index not in missed for index in range(IMAGES)]


BEST = right(range(10))
SLIGHTLY_WORSE = right(range(10), range(20, 23))
WORSE = right(range(40))
DENSE_HITS = right(range(2))


def facts(hits: Sequence[bool] | None = DENSE_HITS, **data: Any) -> dict[str, Any]:
    """Return what a study with these hits of the dense network has stored."""
    stored = {"dense": DENSE.to_json(), "session:0": {"budget": {"mflops": "50"}}, "data": data}
    return stored if hits is None else {**stored, "dense_correct": PairedScores.pack(hits).text}


def three() -> list[Trial]:
    """Return two baselines and the best trial, whose hits are all stored."""
    return [
        trial(0, answered(WORSE), "baseline:uniform"),
        trial(1, answered(SLIGHTLY_WORSE), "baseline:knapsack"),
        trial(2, answered(BEST, loss=0.05)),
    ]


def timed(hits: Sequence[bool], latency_ms: float) -> Completed:
    """Return what a network with these hits and this latency measured; the slower it is, the lower its loss."""
    found = answered(hits, loss=0.1 / latency_ms)
    values = {**found.measurement.values, "latency_ms": latency_ms}
    return Completed(Measurement(values, found.measurement.stderr), found.paired)


def by_name(summary: Summary) -> dict[str, Comparison]:
    return {one.baseline: one for one in summary.worth}


def test_every_baseline_and_the_dense_network_get_a_verdict(make_view: MakeView) -> None:
    found = by_name(summarise(make_view(three(), facts=facts())))
    assert {name: (one.verdict, one.trial, one.paired) for name, one in found.items()} == {
        "uniform": ("better", 0, True),
        "knapsack": ("not distinguishable", 1, True),
        "dense": ("worse", None, True),
    }
    assert found["uniform"].difference == pytest.approx(0.075)
    assert found["dense"].difference == pytest.approx(-0.02)


def test_the_report_says_it_in_words(make_view: MakeView) -> None:
    summary = summarise(make_view(three(), facts=facts()))
    uniform, knapsack, dense = (by_name(summary)[name] for name in ("uniform", "knapsack", "dense"))
    assert (
        f"the best trial is better than uniform by 7.50 points (95 % interval {100 * uniform.low:.2f} to "
        f"{100 * uniform.high:.2f}), and not distinguishable from knapsack: +0.75 points ({100 * knapsack.low:+.2f} to "
        f"{100 * knapsack.high:+.2f})"
    ) in summary.notes
    assert (
        f"the best trial is worse than the dense network by 2.00 points (95 % interval {-100 * dense.high:.2f} to "
        f"{-100 * dense.low:.2f})"
    ) in summary.notes
    assert "unpaired" not in "".join(summary.notes)


def test_old_trials_are_compared_by_their_accuracies_and_the_report_says_so(make_view: MakeView) -> None:
    trials = [
        trial(0, measurement(0.96, 49), "baseline:uniform"),
        trial(1, answered(SLIGHTLY_WORSE), "baseline:inner"),
        trial(2, answered(BEST, loss=0.05)),
    ]
    summary = summarise(make_view(trials, facts=facts(None)))
    found = by_name(summary)
    assert {name: one.paired for name, one in found.items()} == {"uniform": False, "inner": True, "dense": False}
    both = trials[0].outcome, trials[2].outcome
    errors = [one.measurement.error("accuracy") for one in both if isinstance(one, Completed)]
    assert found["uniform"].stderr == pytest.approx(math.hypot(*errors))
    said = "intervals against uniform and the dense network are unpaired and may be too wide"
    assert any(note.startswith(said) for note in summary.notes)
    alone = summarise(make_view([trial(0, measurement(0.96, 49))])).notes
    assert any(note.startswith("intervals are unpaired") for note in alone)


def test_pairing_is_sharper_than_adding_errors() -> None:
    best, other = answered(BEST), answered(SLIGHTLY_WORSE)
    one, two = (Scored("x", 0, outcome.measurement, outcome.paired) for outcome in (best, other))
    paired, unpaired = compare(one, two, ACCURACY), compare(one, Scored("x", 0, other.measurement), ACCURACY)
    assert paired.difference == pytest.approx(unpaired.difference)
    assert paired.stderr < 0.6 * unpaired.stderr


def test_a_baseline_that_wins_is_said_and_still_compared(make_view: MakeView) -> None:
    trials = [
        trial(0, answered(BEST, loss=0.01), "baseline:uniform"),
        trial(1, answered(WORSE), "baseline:inner"),
        trial(2, answered(SLIGHTLY_WORSE)),
    ]
    summary = summarise(make_view(trials, facts=facts()))
    assert [one.baseline for one in summary.worth] == ["inner", "dense"]
    notes = "\n".join(summary.notes)
    assert "the best network is the uniform baseline: no searched policy is better within this budget" in notes
    assert "the uniform baseline is better than inner by 7.50 points" in notes
    assert "the uniform baseline is worse than the dense network" in notes


def test_without_a_budget_only_the_dense_network_is_compared(make_view: MakeView) -> None:
    found = by_name(summarise(make_view(three(), facts=facts()), Budget()))
    assert list(found) == ["dense"]


def test_a_baseline_that_misses_the_budget_is_no_rival(make_view: MakeView) -> None:
    late = trial(3, measurement(0.99, 49, latency_ms=9.0), "baseline:global", Budget.parse({"latency_ms": 3}))
    best = trial(4, measurement(0.97, 49), budget=Budget.parse({"latency_ms": 3}))
    summary = summarise(make_view([late, best]), Budget.parse({"latency_ms": 3}))
    assert [one.baseline for one in summary.worth] == ["dense"]


def test_nothing_within_the_budget_is_compared_with_nothing(make_view: MakeView) -> None:
    summary = summarise(make_view(three(), facts=facts()), Budget.parse({"mflops": 1}))
    assert summary.worth == ()
    assert "better than" not in "\n".join(summary.notes)


def test_choosing_on_these_images_is_said_once_and_with_how_many(make_view: MakeView) -> None:
    notes = summarise(make_view(three(), facts=facts())).notes
    said = [note for note in notes if "chosen on these very examples" in note]
    assert len(said) == 1
    assert said[0].startswith("the best of 3 trials was")
    assert "`autoprune pick` compares on test" in said[0]
    alone = summarise(make_view(three()[:1], facts=facts())).notes
    assert "accuracy is on validation examples; `autoprune pick` gives the test accuracy" in alone


def equals(count: int, seed: int) -> list[Trial]:
    """Return trials of networks that are right with the same chance on each of the same images, mostly alike."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(1.6, 1.6, IMAGES)
    answers = [(ease + rng.normal(0, 0.7, IMAGES) > 0).tolist() for _ in range(count)]
    origins = ["baseline:uniform", *["sampler:tpe"] * (count - 1)]
    return [trial(n, answered(right, loss=0.1), origins[n]) for n, right in enumerate(answers)]


def test_a_lead_that_may_be_the_luck_of_the_best_of_many_is_said_to_be_none(make_view: MakeView) -> None:
    """The interval alone calls the best of sixty equals better than one of them in a third of all studies."""
    leads, lucks, believed = [], [], 0
    for seed in range(12):
        trials = equals(60, seed)
        summary = summarise(make_view(trials, facts=facts(None)))
        (said,) = [note for note in summary.notes if "chosen on these very examples" in note]
        is_better = "uniform" in by_name(summary) and by_name(summary)["uniform"].verdict == "better"
        assert ("less that, it is not distinguishable from uniform" in said) is is_better
        believed += is_better
        accuracies = [one.measurement["accuracy"] for one in scored(trials)]
        leads.append(max(accuracies) - statistics.mean(accuracies))
        lucks.append(float(said.split("up to about ")[1].split(" ")[0]) / 100)
    assert believed > 1
    assert statistics.mean(lucks) == pytest.approx(statistics.mean(leads), rel=0.25)


def test_a_lead_beyond_that_luck_is_left_alone(make_view: MakeView) -> None:
    notes = "\n".join(summarise(make_view(three(), facts=facts())).notes)
    assert "better than uniform by 7.50 points" in notes
    assert "less that" not in notes


def test_fifty_images_tell_little_apart_and_the_report_says_how_little(make_view: MakeView) -> None:
    few = [trial(n, answered([i >= 10 + n for i in range(50)], 49.0 - 9 * n)) for n in range(2)]
    notes = summarise(make_view(few, facts=facts(None))).notes
    (said,) = [note for note in notes if "cannot be told apart" in note]
    assert said.startswith("with 50 validation examples differences below ")
    points = float(said.split(" points")[0].rsplit(" ", 1)[1])
    assert points == pytest.approx(100 * 1.96 * math.sqrt((3 - 1 / 52) / 51 / 52), abs=0.1)
    assert points > 4


def test_networks_far_below_the_best_do_not_blur_what_can_be_told_apart(make_view: MakeView) -> None:
    def least(trials: list[Trial]) -> str:
        notes = summarise(make_view(trials, facts=facts()), Budget()).notes
        return next(note for note in notes if "cannot be told apart" in note)

    near = [trial(n, answered(right(range(10 + n)), 49.0 - 2 * n)) for n in range(6)]
    far = [trial(10 + n, answered(right(range(100, 200 + 10 * n)), 30.0 - 2 * n)) for n in range(9)]
    assert least([*near, *far]) == least(near)


def test_without_hits_the_number_of_images_is_left_out(make_view: MakeView) -> None:
    notes = summarise(make_view([trial(0, measurement(0.97, 40))])).notes
    assert any(note.startswith("differences below 1.69 points") for note in notes)


def test_exact_accuracies_have_no_least_difference(make_view: MakeView) -> None:
    exact = Measurement({"accuracy": 0.9, "mflops": 40.0, "latency_ms": 2.0})
    stored = {**facts(None), "dense": {**DENSE.to_json(), "stderr": {}}}
    assert "told apart" not in "\n".join(summarise(make_view([trial(0, exact)], facts=stored)).notes)


@pytest.mark.parametrize(
    ("accuracy", "classes", "is_at_chance"),
    [(0.10, 10, True), (0.125, 10, True), (0.135, 10, False), (0.04, 10, True), (0.52, 2, True), (0.9, None, False)],
)
def test_a_network_at_chance_is_said(accuracy: float, classes: int | None, is_at_chance: bool) -> None:
    notes = chance_notes(
        Measurement({"accuracy": accuracy}, {"accuracy": 0.015}), ACCURACY, 1 / classes if classes else None, classes
    )
    assert bool(notes) is is_at_chance
    assert all("Comparisons mean nothing" in note for note in notes)


def test_the_report_begins_with_chance(make_view: MakeView) -> None:
    stored = {**facts(None, num_classes=3), "dense": measurement(0.34, 125.75).to_json()}
    summary = summarise(make_view(three(), facts=stored))
    assert summary.notes[0].startswith("the dense network is at chance: 34.00 %")
    assert "guessing among 3 classes gives 33.33 %" in summary.notes[0]


def test_json_has_every_comparison(make_view: MakeView) -> None:
    summary = summarise(make_view(three(), facts=facts()))
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert [entry["baseline"] for entry in data["worth"]] == ["uniform", "knapsack", "dense"]
    for entry, one in zip(data["worth"], summary.worth, strict=True):
        assert set(entry) == {"baseline", "trial", "difference", "stderr", "low", "high", "paired", "verdict"}
        assert entry["low"] == pytest.approx(entry["difference"] - 1.96 * entry["stderr"])
        assert entry["high"] == pytest.approx(entry["difference"] + 1.96 * entry["stderr"])
        assert entry["verdict"] == one.verdict


def test_a_choice_that_follows_from_luck_is_said(make_view: MakeView) -> None:
    """Of 400 images: dense 390 right, the slow ones 393, the fast one 389; by the best alone it would be too bad."""
    slow = [trial(n, timed(right(range(7)), 4.0)) for n in range(8)]
    trials = [*slow, trial(8, timed(right(range(11)), 1.0))]
    dense = Measurement({**DENSE.values, "accuracy": 390 / IMAGES}, DENSE.stderr)
    summary = summarise(make_view(trials, facts={**facts(None), "dense": dense.to_json()}))
    assert summary.best is not None
    assert summary.best.number == 8
    assert (
        "trial 8 is the fastest of those within one standard error of the dense network's accuracy, above which the "
        "best is by no more than luck; by validation loss it would be trial 0 (--prefer accuracy)"
    ) in summary.notes
