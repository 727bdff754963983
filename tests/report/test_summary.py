"""What the report says, and what it says when there is little to say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from fake_studies import DENSE, many_trials, measurement, trial

from autoprune.core.budget import Budget
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Failed, OverBudget, Stopped
from autoprune.errors import StudyError
from autoprune.report.content.rows import first_line
from autoprune.report.content.summary import Summary, summarise
from autoprune.report.content.terminal import headline
from autoprune.report.page.sections import tiles
from autoprune.study.spec import StudySpec
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]


def notes_of(summary: Summary) -> str:
    return "\n".join(summary.notes)


def test_rows_are_the_front_then_the_best_then_the_baselines(make_view: MakeView) -> None:
    summary = summarise(make_view(many_trials(60)))
    on_front = [row.on_front for row in summary.rows]
    assert on_front == sorted(on_front, reverse=True)
    assert {row.origin for row in summary.rows if row.is_baseline} == {"uniform", "inner", "global"}
    assert sum(row.is_best for row in summary.rows) == 1
    assert len({row.number for row in summary.rows}) == len(summary.rows)
    assert len(summary.front) < len(summarise(make_view(many_trials(60)), noise_aware=False).front)


def test_the_best_is_a_row_even_when_the_front_leaves_it_out(make_view: MakeView) -> None:
    accurate, cheaper = trial(0, measurement(0.970, 49.0)), trial(1, measurement(0.969, 40.0))
    summary = summarise(make_view([accurate, cheaper, trial(2, measurement(0.968, 49.5, loss=0.01))]))
    assert [(row.number, row.on_front, row.is_best) for row in summary.rows] == [(1, True, False), (2, False, True)]
    assert "trial 2, the best, is not on the front" in notes_of(summary)
    assert "1 more trial is not dominated" in notes_of(summary)


def test_a_row_compares_with_the_dense_network_and_the_budget(make_view: MakeView) -> None:
    (row,) = summarise(make_view([trial(0, measurement(0.979, 40.0, 2.05))])).rows
    assert row.origin == "tpe"
    assert row.ratios["mflops"] == pytest.approx(40 / 125.75)
    assert row.ratios["latency_ms"] == pytest.approx(0.5)
    assert set(row.ratios) == {"mflops", "mparams", "latency_ms", "size_mb"}
    assert row.quality_drop == pytest.approx(0.01)
    assert row.budget_used == pytest.approx(0.8)
    assert row.fits


def test_the_tightest_limit_counts(make_view: MakeView) -> None:
    budget = Budget.parse({"mflops": 50, "latency_ms": 2})
    summary = summarise(make_view([trial(0, measurement(0.97, 40, 2.5))]), budget)
    (row,) = summary.rows
    assert row.budget_used == pytest.approx(1.25)
    assert not row.fits
    assert summary.best is None
    assert "the nearest is trial 0" in notes_of(summary)


def test_a_given_budget_may_be_relative_or_needless(make_view: MakeView) -> None:
    view = make_view([trial(0, measurement(0.97, 40))])
    assert summarise(view, Budget.parse({"mflops": "40%"})).budget == Budget.parse({"mflops": 0.4 * 125.75})
    assert summarise(view, Budget.parse({"mflops": 1000})).best is not None


def test_without_completed_trials(make_view: MakeView) -> None:
    summary = summarise(make_view([], running=1))
    assert summary.rows == ()
    assert summary.best is None
    assert summary.hypervolume == 0
    assert summary.running == 1
    assert summary.notes == ()


def test_with_one_trial_there_is_no_knee(make_view: MakeView) -> None:
    summary = summarise(make_view([trial(7, measurement(0.97, 40))]))
    assert summary.best is not None
    assert summary.best.number == 7
    assert summary.best.on_front
    assert summary.knee is None


def test_only_failed_trials(make_view: MakeView) -> None:
    trials = [trial(number, Failed("NonFiniteError", "loss is NaN\nlater lines")) for number in range(3)]
    summary = summarise(make_view(trials))
    assert summary.counts == {"completed": 0, "over_budget": 0, "stopped": 0, "failed": 3, "untimed": 0}
    assert next((f.number, f.error, f.message) for f in summary.failures) == (0, "NonFiniteError", "loss is NaN")
    assert summary.rows == ()


def test_counts_and_seconds(make_view: MakeView) -> None:
    cost = Measurement({"mflops": 60.0})
    ended = [measurement(0.9, 40), OverBudget(cost, {"mflops": 0.2}), Stopped("clearly worse", cost), Failed("E", "")]
    summary = summarise(make_view([trial(n, outcome) for n, outcome in enumerate(ended)]))
    assert summary.counts == {"completed": 1, "over_budget": 1, "stopped": 1, "failed": 1, "untimed": 0}
    assert summary.seconds == {"finetune": 40.0, "score": 6.0, "other": 2.0}
    assert summary.total_seconds == 48
    assert summary.sessions == 1


def test_without_a_budget_the_most_accurate_is_the_best(make_view: MakeView) -> None:
    trials = [trial(0, measurement(0.90, 40), budget=Budget()), trial(1, measurement(0.97, 90), budget=Budget())]
    summary = summarise(make_view(trials, Budget()))
    assert summary.budget == Budget()
    assert summary.best is not None
    assert (summary.best.number, summary.best.budget_used, summary.best.fits) == (1, None, True)


def test_a_study_without_a_session_has_no_budget(make_view: MakeView) -> None:
    summary = summarise(make_view([], facts={"dense": DENSE.to_json()}))
    assert (summary.sessions, summary.budget) == (0, Budget())


def test_a_study_without_a_dense_network_says_what_to_do(make_view: MakeView) -> None:
    with pytest.raises(StudyError, match="autoprune search"):
        summarise(make_view([], facts={}))


def test_baselines_belong_to_their_budget(make_view: MakeView) -> None:
    tight, loose = Budget.parse({"mflops": 30}), Budget.parse({"mflops": 50})
    trials = [
        trial(0, measurement(0.90, 29), "baseline:uniform", tight),
        trial(1, measurement(0.95, 49), "baseline:uniform", loose),
        trial(2, measurement(0.97, 28, loss=0.05), budget=tight),
    ]
    view = make_view(trials)
    assert {row.number for row in summarise(view, tight).rows} == {2, 0}
    assert {row.number for row in summarise(view, loose).rows} == {2, 1}
    other = summarise(view, Budget.parse({"mflops": 35}))
    assert {row.number for row in other.rows} == {2, 0}
    assert "no baseline was made for this budget" in notes_of(other)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Failed("ModelError", "cannot cut\nmore"), "it failed with ModelError: cannot cut"),
        (Stopped("clearly worse", Measurement({"mflops": 49.0})), "it was stopped, clearly worse"),
        (OverBudget(Measurement({"mflops": 60.0}), {"mflops": 0.2}), "it is over budget"),
    ],
)
def test_a_missing_baseline_is_named_with_its_reason(
    make_view: MakeView, outcome: Failed | Stopped | OverBudget, reason: str
) -> None:
    notes = summarise(make_view([trial(0, outcome, "baseline:global")])).notes
    assert notes == (f"the global baseline (trial 0) is missing: {reason}",)


def test_what_was_not_counted_is_a_note(make_view: MakeView) -> None:
    dense = DENSE.merged(Measurement({}, {}, ("attention in block.0",)))
    facts = {"dense": dense.to_json()}
    assert (
        "not counted: attention in block.0" in summarise(make_view([trial(0, measurement(0.9, 40))], facts=facts)).notes
    )


def test_objectives_may_begin_with_a_cost(make_view: MakeView) -> None:
    spec = StudySpec(objectives=("mflops", "accuracy"))
    summary = summarise(make_view(many_trials(20), spec=spec))
    assert summary.objectives == ("accuracy", "mflops")
    accuracies = [row.measurement["accuracy"] for row in summary.front]
    assert accuracies == sorted(accuracies, reverse=True)


def test_json_is_plain_finite_and_says_its_units(make_view: MakeView) -> None:
    summary = summarise(make_view([*many_trials(30), trial(30, Failed("E", "x"))]))
    data = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    assert data == summary.to_json()
    assert data["flop_convention"] == FLOP_CONVENTION
    assert data["units"]["latency_ms"] == "ms"
    assert data["units"]["accuracy"] == "fraction"
    assert data["budget"] == {"mflops": 50.0}
    assert [row["trial"] for row in data["rows"] if row["best"]] == [data["best"]]
    assert data["dense"]["values"]["mflops"] == 125.75


def test_first_line_of_an_odd_message() -> None:
    assert first_line("") == ""
    assert first_line("\n\n  late start\nmore") == "late start"
    assert "\x1b" not in first_line("\x1b[31mred")
    assert first_line("lone \ud800 surrogate") == "lone   surrogate"
    assert len(first_line("x" * 10_000)) <= 300


def test_proposals_that_repeat_a_policy_are_counted(make_view: MakeView) -> None:
    """Trials 1 and 3 repeat what came before; a baseline, which comes again with every budget, does not count."""
    cut = [0.5, 0.5, 0.25, 0.25, 0.5]
    origins = ["baseline:uniform", "guided:drawn", "guided:lower", "guided:drawn", "baseline:inner"]
    trials = [
        replace(one, candidate=replace(one.candidate, policy=PruningPolicy.uniform(cut[n], "l1", names=["conv1"])))
        for n, one in enumerate(trial(n, measurement(0.9, 49.0), origin) for n, origin in enumerate(origins))
    ]
    said = "a policy that was evaluated before: the space has few others, and more trials add little"
    assert f"2 trials repeat {said}" in summarise(make_view(trials)).notes
    assert "evaluated before" not in "".join(summarise(make_view(trials[::2])).notes)


def test_five_thousand_trials(make_view: MakeView) -> None:
    summary = summarise(make_view(many_trials(5000)))
    assert summary.counts["completed"] == 5000
    assert 0 < len(summary.front) < 500


def test_the_room_loads_neither_torch_nor_optuna() -> None:
    code = (
        "import sys, autoprune.report.write_report, autoprune.report.content.terminal\n"
        "print([name for name in ('torch', 'optuna', 'matplotlib', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_in_int8_the_best_is_set_beside_the_dense_network_in_float32_too(make_view: MakeView) -> None:
    session = {"started": "2026-01-01T00:00:00+00:00", "budget": {"mflops": 50}}
    facts = {"dense": DENSE.to_json(), "session:0": session}
    of_int8 = {**session, "latency": {"format": "int8", "dense_fp32_ms": 2.5 * DENSE["latency_ms"]}}
    trials = [trial(0, measurement(0.97, 40, DENSE["latency_ms"] / 2))]
    plain = summarise(make_view(trials, facts=facts))
    summary = summarise(make_view(trials, facts={**facts, "session:0": of_int8}))

    assert plain.dense_float32_ms is None
    assert "in int8" not in " ".join(headline(plain)) + str(tiles(plain))
    assert summary.to_json()["dense_float32_ms"] == 2.5 * DENSE["latency_ms"]
    assert "in int8 (2.00× as fast as dense, 5.00× as dense in float32)" in " ".join(headline(summary))
    assert "2.00× as fast as dense" in str(tiles(summary))
    assert "in int8; 5.00× as dense in float32" in str(tiles(summary))
