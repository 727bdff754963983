"""A report on a study that is judged by something else than accuracy, in all its forms, and what else reads it."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from judged_studies import MIOU, RMSE, judged, judged_trial, judged_view, resampled, store_judged

from autoprune.cli.main import main
from autoprune.cli.pick import PickRequest
from autoprune.core.budget import Budget
from autoprune.core.metrics import ACCURACY, METRICS, Metric
from autoprune.core.trial import Completed
from autoprune.errors import NothingFitsError, StudyError, UsageError
from autoprune.loggers.console import how_it_ended
from autoprune.loggers.flatten import standing_of
from autoprune.loggers.standing_tracker import StandingTracker
from autoprune.pick.choose_trials import choose_trials
from autoprune.report.content.axes import outside_of, quality_range
from autoprune.report.content.summary import summarise
from autoprune.report.content.terminal import front_text
from autoprune.report.page.data import page_document
from autoprune.report.page.html import page_text
from autoprune.report.plots.front import draw_front
from autoprune.study.find_study import find_study
from autoprune.study.view import StudyView, open_view

DENSE = judged(RMSE, 0.5, 100, 0.02, accuracy=0.91, train_rmse=0.45)


def outcomes() -> list[Completed]:
    """Return eight trials on a front that goes down, and one far above the picture."""
    good = [
        Completed(
            judged(RMSE, 0.52 + 0.02 * n, 50 - 3 * n, 0.02, accuracy=0.9 - 0.01 * n, train_rmse=0.4, latency_ms=2.0),
            resampled(0.52 + 0.02 * n, 0.02, 1, n),
        )
        for n in range(8)
    ]
    return [*good, Completed(judged(RMSE, 9.0, 10, 0.02, accuracy=0.1), resampled(9.0, 0.02, 1))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    store_judged(folder / "depth", outcomes(), DENSE, RMSE, ACCURACY, dense_correct=resampled(0.5, 0.02))
    plain = [Completed(judged(MIOU, 0.7 - 0.02 * n, 50 - 3 * n)) for n in range(4)]
    store_judged(folder / "streets", plain, judged(MIOU, 0.72, 100), MIOU)
    METRICS.pop("rmse", None)  # as a fresh process, which learns of it from the study
    return folder


def run(*arguments: str | Path, code: int = 0) -> str:
    found = CliRunner().invoke(main, [str(one) for one in arguments])
    assert found.exit_code == code, found.output
    return found.output


def test_the_terminal_shows_each_metric_by_its_own_name_and_unit(root: Path) -> None:
    text = run("report", root / "depth")
    words = " ".join(text.split())
    assert "rmse 0.5200 ± 0.0200 mm (dense 0.5000 ± 0.0200 mm), accuracy 90.00 % (dense 91.00 %), 50.00 MFLOPs" in words
    assert "the best trial is worse than the dense network by 0.0200 mm (95 % interval " in words
    assert "with 400 validation examples differences below" in words
    assert "the front in rmse, mflops" in words
    assert "twice the dense network's rmse at dense cost" in words
    assert "± is one standard error, which accuracy has not." in words
    header = next(line for line in text.splitlines() if "MFLOPs" in line and "latency" in line)
    assert header.split()[:3] == ["rmse", "rise", "accuracy"]


def test_a_metric_without_a_standard_error_has_no_sign_and_no_interval(root: Path) -> None:
    words = " ".join(run("report", root / "streets").split())
    assert "miou 70.00 % (dense 72.00 %)" in words
    assert "2.00 points worse than the dense network (no standard error)" in words
    assert words.count("±") == 1
    assert "± is one standard error, which miou has not." in words
    assert "no standard error</td>" in (root / "streets" / "report.html").read_text()


def test_files_name_their_columns_by_the_metrics(root: Path) -> None:
    run("report", root / "depth")
    with (root / "depth" / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert not any(name.startswith("accuracy_drop") for name in rows[0])
    best = next(row for row in rows if row["best"] == "1")
    assert (best["rmse"], best["rmse_stderr"], best["accuracy"], best["accuracy_stderr"]) == ("0.52", "0.02", "0.9", "")
    assert float(best["rmse_drop"]) == pytest.approx(0.02)
    assert float(best["generalisation_gap"]) == pytest.approx(0.12)
    stored = json.loads((root / "depth" / "front.json").read_text())
    assert stored["qualities"] == [
        {"name": "rmse", "unit": "mm", "goal": "min"},
        {"name": "accuracy", "unit": "fraction", "goal": "max"},
    ]
    assert stored["units"]["rmse"] == stored["units"]["train_rmse"] == "mm"
    assert stored["worth"][-1]["difference"] == pytest.approx(-0.02)
    assert all("rmse_drop" in row for row in stored["rows"])


def test_lists_and_watchers_show_the_metric(root: Path) -> None:
    listed = {one["name"]: one for one in json.loads(run("studies", "--root", root, "--json"))["studies"]}
    assert (listed["depth"]["quality"], listed["depth"]["best_rmse"]) == ("rmse", 0.52)
    assert listed["depth"]["best"] == "rmse 0.5200 mm at 50.00 MFLOPs"
    assert listed["streets"]["best"] == "miou 70.00 % at 50.00 MFLOPs"
    assert "rmse 0.5200 ± 0.0200 mm (dense 0.5000" in " ".join(run("watch", root / "depth", "--once").split())


def test_two_studies_may_give_one_name_to_different_metrics(root: Path) -> None:
    METRICS.pop("miou", None)
    other = Metric("rmse")
    store_judged(root / "diabetes", [Completed(judged(other, 70.0, 40, 1.5))], judged(other, 68.0, 100, 1.5), other)
    METRICS.pop("rmse", None)
    listed = {one["name"]: one for one in json.loads(run("studies", "--root", root, "--json"))["studies"]}
    assert listed["diabetes"]["best"] == "rmse 70.0000 at 40.00 MFLOPs"
    assert listed["depth"]["best"] == "rmse 0.5200 mm at 50.00 MFLOPs"


def test_the_page_knows_the_metrics_and_what_is_better(root: Path) -> None:
    view = open_view(root / "depth")
    document = page_document(view, summarise(view))
    leading, further = document["qualities"]
    assert (leading["name"], leading["sign"], leading["scale"], leading["gap_unit"]) == ("rmse", -1.0, 1.0, "mm")
    assert (further["title"], further["scale"], further["gap_unit"]) == ("Accuracy", 100.0, "points")
    assert "accuracy" in document["trials"]["values"]
    page = html.unescape(page_text(view, summarise(view)))
    assert "By how much the best network's rmse is below the other's, on the same validation examples" in page
    assert "+0.0200 mm against dense, 0.5000 mm ± 0.0200" in page


def test_the_picture_leaves_room_for_what_is_worth_comparing(root: Path) -> None:
    view = open_view(root / "depth")
    summary = summarise(view)
    low, high = quality_range(summary)
    assert low < 0.48
    assert 0.7 < high < 1.5
    outside = outside_of(summary)
    assert [one.number for one in view.trials if outside(one.outcome.measurement)] == [8]
    (axes,) = draw_front(summary, view.trials).axes
    assert axes.get_ylabel() == "validation rmse (mm)"
    assert axes.get_ylim() == pytest.approx((low, high))
    stairs = next(line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 4)
    assert list(stairs) == sorted(stairs, reverse=True)


def test_without_a_budget_the_best_is_not_called_most_accurate(tmp_path: Path) -> None:
    trials = [judged_trial(n, judged(MIOU, 0.7 - 0.1 * n, 50 - n)) for n in range(3)]
    text = front_text(summarise(judged_view(tmp_path / "x", trials, judged(MIOU, 0.8, 99), MIOU), Budget()))
    assert "best miou: trial 0" in text
    assert "accura" not in text


def test_a_further_metric_that_a_trial_lacks_leaves_a_gap(tmp_path: Path) -> None:
    trials = [judged_trial(0, judged(RMSE, 0.6, 40, 0.01)), judged_trial(1, judged(RMSE, 0.7, 30, 0.01, miou=0.5))]
    view = judged_view(tmp_path / "x", trials, judged(RMSE, 0.5, 99, 0.01, miou=0.6), RMSE, MIOU)
    text = front_text(summarise(view), width=110)
    assert "miou not measured" in text
    assert "–" in next(line for line in text.splitlines() if "★" in line)


def asked(*arguments: str) -> PickRequest:
    from autoprune.cli.pick import pick

    with pick.make_context("pick", ["x", *arguments]) as context:
        options = {name: value for name, value in context.params.items() if name not in NOT_THE_PICK}
    return PickRequest.of(options)


NOT_THE_PICK = ("study", "root", "storage", "as_json", "quiet", "verbose")


@pytest.fixture
def depth(root: Path) -> StudyView:
    return open_view(find_study("depth", root)[0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--max", "rmse=0.57"), 2),
        (("--min", "rmse=0.57"), 2),
        (("--max-drop", "0.07"), 2),
        (("--min", "accuracy=88%"), 2),
        (("--min-accuracy", "88%"), 2),
        (("--max", "rmse=0.61", "--min", "accuracy=0.88"), 2),
        (("--max", "rmse=0.6", "--budget-mflops", "45"), 2),
    ],
)
def test_a_pick_by_quality(depth: StudyView, options: tuple[str, ...], expected: int) -> None:
    wish = asked("--prefer", "accuracy", *options).wish  # by MFLOPs: all are equally fast
    _, (best, *_) = choose_trials(depth, wish)
    assert best.number == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max", "rmse=0.1"), "meets rmse ≤ 0.1000 mm; the nearest is trial 0 with rmse 0.5200 mm"),
        (
            ("--min", "accuracy=95%"),
            "≥ 95.00 %; the nearest is trial 0 with rmse 0.5200 mm, accuracy 90",
        ),
        (("--max", "accuracy=3%"), "write --min accuracy=3%"),
        (("--min", "foo=3"), "no quality of this study named 'foo'; known: accuracy, rmse"),
        (("--min", "mflops=3"), "no quality of this study named 'mflops'"),
        (("--min", "rmse"), "write for example --max rmse=0.5"),
        (("--min", "rmse="), "is not of the form NAME=VALUE"),
        (("--min", "rmse=nan"), "a number in mm"),
        (("--min", "accuracy=3"), "the accuracy of --min '3' is neither a percentage nor a fraction"),
        (("--max-drop", "1%"), "a number in mm"),
        (("--max-drop", "-1"), "is below 0"),
        (("--max-drop", "0", "--max", "rmse=3"), "rmse was limited twice"),
        (("--min-accuracy", "88%", "--min", "accuracy=88%"), "accuracy was limited twice"),
    ],
)
def test_a_limit_that_makes_no_sense_is_said(depth: StudyView, options: tuple[str, ...], said: str) -> None:
    with pytest.raises((NothingFitsError, UsageError)) as error:
        choose_trials(depth, asked(*options).wish)
    assert said in str(error.value)


def test_a_trial_by_number_has_no_limits() -> None:
    with pytest.raises(UsageError, match="however good it is; leave --min and --max out"):
        asked("--trial", "3", "--min", "rmse=3", "--max", "rmse=3")


def test_min_accuracy_names_the_metric_of_another_study(root: Path) -> None:
    with pytest.raises(UsageError, match="judged by miou, not by accuracy; write --min miou=VALUE"):
        choose_trials(open_view(root / "streets"), asked("--min-accuracy", "50%").wish)


def test_loggers_and_displays_follow_the_metric(depth: StudyView) -> None:
    course = StandingTracker(depth.spec.objectives, depth.budget, depth.dense, depth.spec.quality)
    for trial in depth.trials:
        course.add(trial)
    told = standing_of(course.standing)
    assert (told["best/trial"], told["best/rmse"], told["best/accuracy"]) == (0.0, 0.52, 0.9)
    assert "best/train_rmse" not in told
    line = how_it_ended(depth.trials[0], depth.dense, depth.spec.qualities)
    assert line == "rmse 0.5200 ± 0.0200 mm, accuracy 90.00 %, 50.00 MFLOPs, 2.00 ms (×2.00)"


def test_a_study_that_lost_its_metric_is_damaged(tmp_path: Path) -> None:
    store_judged(tmp_path / "x", [Completed(judged(RMSE, 0.5, 40))], judged(MIOU, 0.5, 90), RMSE)
    with pytest.raises(StudyError, match="it lacks rmse"):
        open_view(tmp_path / "x")
