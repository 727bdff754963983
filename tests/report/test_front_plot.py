"""front.png: drawn for every kind of study, without a window system and without a trace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from fake_studies import many_trials, measurement, trial
from PIL import Image

from autoprune.core.budget import Budget
from autoprune.core.trial import Failed, Trial
from autoprune.report.content.summary import summarise
from autoprune.report.plots.front import draw_front, write_front_pictures
from autoprune.study.spec import StudySpec
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]

CASES: dict[str, list[Trial]] = {
    "none": [],
    "only failed": [trial(0, Failed("E", "x"))],
    "one": [trial(0, measurement(0.97, 49))],
    "equal": [trial(number, measurement(0.97, 49)) for number in range(4)],
    "perfect": [trial(0, measurement(1.0, 49))],
    "collapsed": [*many_trials(30), trial(90, measurement(0.1, 20, 1.0)), trial(91, measurement(0.1, 49, 3.0))],
    "odd origin": [trial(0, measurement(0.97, 49), "baseline:$x_{$"), trial(1, measurement(0.98, 49))],
    "many baselines": [trial(n, measurement(0.97, 49), f"baseline:b{n}") for n in range(7)],
    "many": many_trials(600),
}


@pytest.mark.parametrize("budget", [Budget.parse({"mflops": 50}), Budget.parse({"latency_ms": 3}), Budget()])
@pytest.mark.parametrize("name", CASES)
def test_every_study_has_a_picture(make_view: MakeView, tmp_path: Path, name: str, budget: Budget) -> None:
    path = tmp_path / "front.png"
    write_front_pictures(summarise(make_view(CASES[name]), budget), CASES[name], [path], dpi=50)
    with Image.open(path) as image:
        assert image.size == (500, 250)
        assert len(image.convert("RGB").getcolors(100_000) or []) > 10


def test_the_svg_is_the_same_each_time_and_stays_small(make_view: MakeView, tmp_path: Path) -> None:
    trials = many_trials(1200)
    summary = summarise(make_view(trials))
    one, other = tmp_path / "one.svg", tmp_path / "other.svg"
    write_front_pictures(summary, trials, [one], dpi=50)
    write_front_pictures(summary, trials, [other], dpi=50)
    assert one.read_bytes() == other.read_bytes()
    assert b"<svg" in one.read_bytes()
    assert one.stat().st_size < 400_000


def test_one_panel_for_each_cost_on_one_accuracy_axis(make_view: MakeView) -> None:
    trials = many_trials(20)
    figure = draw_front(summarise(make_view(trials)), trials)
    assert [axes.get_xlabel().split()[0] for axes in figure.axes] == ["latency", "MFLOPs"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    spec = StudySpec(objectives=("accuracy", "mparams"))
    figure = draw_front(summarise(make_view(trials, spec=spec)), trials)
    assert [axes.get_xlabel().split()[0] for axes in figure.axes] == ["MFLOPs", "parameters"]


def test_everything_worth_naming_is_in_the_legend(make_view: MakeView) -> None:
    trials = CASES["collapsed"]
    summary = summarise(make_view(trials))
    (legend,) = draw_front(summary, trials).legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert summary.best is not None
    assert labels[:2] == ["front", f"best within budget: trial {summary.best.number}"]
    assert {"uniform baseline", "inner baseline", "global baseline", "other trials"} <= set(labels)
    assert "dense (4.10 ms, 126 MFLOPs)" in labels
    assert "1 below the picture" in labels


def test_a_collapsed_network_does_not_squeeze_the_rest(make_view: MakeView) -> None:
    trials = CASES["collapsed"]
    low, high = draw_front(summarise(make_view(trials)), trials).axes[0].get_ylim()
    assert high - low < 40


def test_the_picture_leaves_matplotlib_as_it_was(make_view: MakeView, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_front_pictures(summarise(make_view([])), [], [tmp_path / "front.png"])
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_never_loaded() -> None:
    code = (
        "import io, sys, pathlib, tempfile\n"
        "from autoprune.core.budget import Budget, Measurement\n"
        "from autoprune.report.plots.front import write_front_pictures\n"
        "from autoprune.report.content.summary import Summary\n"
        "dense = Measurement({'accuracy': 0.9, 'mflops': 10.0})\n"
        "counts = dict.fromkeys(('completed', 'over_budget', 'stopped', 'failed'), 0)\n"
        "s = Summary('x', ('accuracy', 'mflops'), True, Budget(), dense, (), 0.0, counts, 0, (), {}, 0, ())\n"
        "write_front_pictures(s, (), [pathlib.Path(tempfile.mkdtemp()) / 'front.png'], dpi=30)\n"
        "print([name for name in ('matplotlib.pyplot', 'torch', 'optuna', 'tkinter') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
