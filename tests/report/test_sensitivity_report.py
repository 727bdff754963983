"""sensitivity.json: read, ranked, drawn, and refused where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_studies import many_trials
from PIL import Image

from autoprune.errors import StudyError
from autoprune.report.content.sensitivity_text import ShownCurve, ShownSensitivity, read_sensitivity, sensitivity_lines
from autoprune.report.content.summary import summarise
from autoprune.report.content.terminal import front_text
from autoprune.report.plots.sensitivity import cells, draw_sensitivity, write_sensitivity_png
from autoprune.report.write_report import write_report
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]


def stored(groups: int, blocks: int = 0) -> dict[str, Any]:
    """Return a file's content in which each group matters less than the one before it."""
    curves: dict[str, Any] = {
        f"layer{n}.conv": {"full": 16, "rises": {"12": 0.1 / (n + 1), "4": 2.0 / (n + 1), "8": 1.0 / (n + 1)}}
        for n in range(groups)
    }
    curves |= {f"block{n}": {"full": 1, "rises": {"0": 0.5}} for n in range(blocks)}
    return {"version": 1, "settings": {}, "dense_loss": 0.31, "seconds": 12.3, "curves": curves}


def written(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "sensitivity.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def read(folder: Path, content: Any) -> ShownSensitivity:
    found = read_sensitivity(written(folder, content))
    assert found is not None
    return found


def test_what_is_written_is_read_in_order(tmp_path: Path) -> None:
    found = read(tmp_path, stored(2, 1))
    assert found.dense_loss == 0.31
    assert [curve.name for curve in found.groups] == ["layer0.conv", "layer1.conv"]
    assert list(found.groups[0].rises.items()) == [(4, 2.0), (8, 1.0), (12, 0.1)]
    assert [curve.name for curve in found.blocks] == ["block0"]
    assert read_sensitivity(tmp_path / "nothing.json") is None


def test_five_at_each_end_and_none_twice(tmp_path: Path) -> None:
    most, least = read(tmp_path, stored(30, 4)).extremes()
    assert [curve.name for curve, _ in most] == [f"layer{n}.conv" for n in range(5)]
    assert [curve.name for curve, _ in least] == [f"layer{n}.conv" for n in range(29, 24, -1)]
    most, least = read(tmp_path, stored(7)).extremes()
    assert (len(most), len(least)) == (5, 2)
    most, least = read(tmp_path, stored(3)).extremes()
    assert (len(most), len(least)) == (3, 0)


def test_half_is_between_what_was_measured_and_never_beyond() -> None:
    assert ShownCurve("a", 10, {2: 1.0, 8: 0.4}).rise_at(0.5) == pytest.approx(0.7)
    assert ShownCurve("a", 10, {5: 0.3}).rise_at(0.5) == 0.3
    assert ShownCurve("a", 10, {4: 0.6}).rise_at(0.5) == pytest.approx(0.5)
    assert ShownCurve("a", 10, {6: 0.3}).rise_at(0.5) is None
    shallow = ShownSensitivity(0.1, (ShownCurve("a", 10, {6: 0.3}), ShownCurve("b", 1, {0: 0.3})))
    assert shallow.ranked() == []
    assert sensitivity_lines(shallow) == []


def test_what_was_measured_is_said() -> None:
    curves = (ShownCurve("a", 10, {5: 0.3}),)
    assert sensitivity_lines(ShownSensitivity(0.1, curves))[0].startswith("the loss rises most when")
    apart = ShownSensitivity(0.1, curves, "divergence")
    assert sensitivity_lines(apart) == ["the answers move most when one group alone is cut to half: a +0.3"]
    assert apart.to_json()["measure"] == "divergence"
    labels = [axes.get_ylabel() for axes in draw_sensitivity(apart, "x").axes]
    assert "divergence from the dense answers (loss of the dense: 0.1)" in labels


def test_cells_do_not_overlap_and_stay_in_the_picture() -> None:
    for curve in (
        ShownCurve("a", 16, {1: 9.0, 4: 1.0, 12: 0.1, 15: 0.0}),
        ShownCurve("a", 16, {15: 0.1}),
        ShownCurve("b", 1, {0: 1}),
    ):
        found = cells(curve)
        assert len(found) == len(curve.rises)
        assert all(0 <= left < right <= 1 for left, right, _ in found)
        assert all(one[1] == other[0] for one, other in pairwise(found))
    assert [rise for _, _, rise in cells(ShownCurve("a", 16, {4: 0.8, 8: 0.2}))] == [0.2, 0.8]


@pytest.mark.parametrize(("groups", "blocks"), [(5, 0), (1, 0), (36, 9), (0, 3), (0, 0), (150, 0)])
def test_any_network_has_a_picture(tmp_path: Path, groups: int, blocks: int) -> None:
    found = read(tmp_path, stored(groups, blocks))
    figure = draw_sensitivity(found, "a $study$")
    named = [label.get_text() for axes in figure.axes[:-1] for label in axes.get_yticklabels()]
    if groups or blocks:
        assert named == [curve.name for curve in (*found.groups, *found.blocks)]
    assert sum(len(axes.patches) for axes in figure.axes[:-1]) == 3 * groups + blocks
    write_sensitivity_png(found, "a $study$", tmp_path / "sensitivity.png", dpi=40)
    with Image.open(tmp_path / "sensitivity.png") as image:
        assert image.height <= 24 * 40
        assert len(image.convert("RGB").getcolors(100_000) or []) > 10


def test_a_loss_that_falls_has_the_lightest_colour(tmp_path: Path) -> None:
    found = ShownSensitivity(0.3, (ShownCurve("a", 4, {1: 1.0, 2: 1e-9, 3: -0.2}),))
    colours = [patch.get_facecolor() for patch in draw_sensitivity(found, "x").axes[0].patches]
    assert colours[0] == colours[1] != colours[2]
    harmless = ShownSensitivity(0.3, (ShownCurve("a", 4, {1: 0.0, 2: -0.1}),))
    write_sensitivity_png(harmless, "x", tmp_path / "harmless.png", dpi=40)


def test_the_report_draws_names_and_lists_it(make_view: MakeView) -> None:
    view = make_view(many_trials(10))
    written(view.folder.path, stored(30, 2))
    summary, files = write_report(view)
    fronts = [f"front.{suffix}" for suffix in ("csv", "json", "png", "svg")]
    assert [path.name for path in files] == ["report.html", *fronts, "sensitivity.png"]
    assert all(path.exists() for path in files)
    text = " ".join(front_text(summary, width=80).split())
    assert "the loss rises most when one group alone is cut to half: layer0.conv +1, layer1.conv +0.5" in text
    assert "and least: layer29.conv +0.0333" in text
    data = json.loads(files[2].read_text(encoding="utf-8"))["sensitivity"]
    assert data["most"][0] == {"name": "layer0.conv", "channels": 16, "rise": 1.0}
    assert [entry["name"] for entry in data["least"]] == [f"layer{n}.conv" for n in range(29, 24, -1)]
    assert data["blocks"] == [{"name": "block0", "rise": 0.5}, {"name": "block1", "rise": 0.5}]


def test_without_the_file_there_is_no_picture_and_no_section(make_view: MakeView) -> None:
    summary = summarise(make_view(many_trials(10)))
    assert summary.sensitivity is None
    assert summary.to_json()["sensitivity"] is None
    assert "sensitivity" not in front_text(summary)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "TypeError"),
        ({**stored(1), "version": 2}, "version 2; this autoprune reads version 1"),
        ({"version": 1}, "KeyError"),
        ({**stored(0), "curves": {"a": {"full": 4, "rises": {"4": 0.0}}}}, r"a was cut to \[4\] channels, where 0 … 3"),
        ({**stored(0), "curves": {"a": {"full": 4, "rises": {"2": float("nan")}}}}, "not a finite number"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: Any, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(StudyError, match=said):
        read_sensitivity(path)


def test_a_group_that_could_not_be_cut_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, {**stored(1), "curves": {"a": {"full": 4, "rises": {}}, **stored(1)["curves"]}})
    assert [curve.name for curve in found.curves] == ["layer0.conv"]
