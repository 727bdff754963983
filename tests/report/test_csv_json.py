"""front.csv and front.json: what is read back is what was said, and no file is ever half written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_studies import many_trials, measurement, trial

from autoprune.core.metrics import ACCURACY
from autoprune.core.trial import Failed
from autoprune.errors import StudyError
from autoprune.report.content.summary import summarise
from autoprune.report.csv_json import columns, json_text, write_front_csv, write_front_json
from autoprune.report.write_report import write_report
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_gives_every_number_back(make_view: MakeView, tmp_path: Path) -> None:
    summary = summarise(make_view(many_trials(40)))
    write_front_csv(summary, tmp_path / "front.csv")
    *lines, dense = read_csv(tmp_path / "front.csv")
    assert tuple(dense) == columns([ACCURACY])
    assert len(lines) == len(summary.rows)
    for line, row in zip(lines, summary.rows, strict=True):
        assert (int(line["trial"]), line["origin"]) == (row.number, row.origin)
        assert (line["on_front"], line["best"], line["knee"]) == tuple(
            str(int(flag)) for flag in (row.on_front, row.is_best, row.is_knee)
        )
        for name, value in row.measurement.values.items():
            assert float(line[name]) == value
        assert float(line["accuracy_stderr"]) == row.measurement.error("accuracy")
        assert float(line["latency_ms_ratio"]) == row.ratios["latency_ms"]
        assert float(line["budget_used"]) == row.budget_used
    assert (dense["trial"], dense["origin"], dense["mflops"], dense["mflops_ratio"]) == ("", "dense", "125.75", "1.0")


def test_csv_without_trials_has_the_dense_network(make_view: MakeView, tmp_path: Path) -> None:
    write_front_csv(summarise(make_view([])), tmp_path / "front.csv")
    assert [line["origin"] for line in read_csv(tmp_path / "front.csv")] == ["dense"]


def test_csv_quotes_what_needs_it(make_view: MakeView, tmp_path: Path) -> None:
    odd = trial(0, measurement(0.9, 40), origin='sampler:a,"b"')
    write_front_csv(summarise(make_view([odd])), tmp_path / "front.csv")
    assert read_csv(tmp_path / "front.csv")[0]["origin"] == 'a,"b"'


def test_json_gives_the_summary_back(make_view: MakeView, tmp_path: Path) -> None:
    summary = summarise(make_view([*many_trials(20), trial(20, Failed("E", "“quoted” [red]"))]))
    write_front_json(summary, tmp_path / "front.json")

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    text = (tmp_path / "front.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse) == summary.to_json()
    assert text == json_text(summary)
    assert "“quoted” [red]" in text


def test_a_report_writes_five_files_and_nothing_else(make_view: MakeView) -> None:
    view = make_view(many_trials(20))
    summary, paths = write_report(view)
    again, _ = write_report(view)
    assert summary == again
    assert sorted(view.folder.path.iterdir()) == sorted(paths)
    assert sorted(path.name for path in paths) == ["front.csv", "front.json", "front.png", "front.svg", "report.html"]


def test_a_folder_that_cannot_be_written_is_said(make_view: MakeView, tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file where the folder should be")
    with pytest.raises(StudyError, match="cannot write"):
        write_report(make_view([]))
