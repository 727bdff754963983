"""report.html without a browser: what it says, that nothing in it can run or load, and what it holds to the bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_studies import DENSE, many_trials, measurement, trial
from page_studies import GROUPS, HOSTILE, mixed_trials, rich_view

from autoprune.core.budget import Budget
from autoprune.core.policy import PruningPolicy
from autoprune.core.trial import Completed, Failed
from autoprune.report.content.summary import summarise
from autoprune.report.page import html as page
from autoprune.report.page.data import page_document
from autoprune.report.page.html import embedded_json, page_text
from autoprune.report.page.policy_encoding import encode_policies, kept_channels
from autoprune.report.write_report import write_report
from autoprune.study.view import StudyView

MakeView = Callable[..., StudyView]


class Reader(HTMLParser):
    """Collect what a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the tests five megabytes each; that the real one is in is tested once."""
    import plotly.offline

    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "/* plotly */")


def read(view: StudyView, budget: Budget | None = None) -> Reader:
    return Reader(page_text(view, summarise(view, budget)))


def held(view: StudyView) -> dict[str, Any]:
    """Return the document that a page holds, as its scripts read it."""
    found: dict[str, Any] = json.loads(read(view).scripts[0])
    return found


def unpacked(column: Any) -> list[Any]:
    return column if isinstance(column, list) else [column["values"][place] for place in column["index"]]


def test_whatever_a_study_holds_is_text(tmp_path: Path) -> None:
    view = rich_view(tmp_path, mixed_trials())
    found = read(view)
    assert len(found.scripts) == 3
    assert [tag for tag, _ in found.tags if tag in ("img", "iframe", "object", "embed", "form")] == []
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count("window.broken=1") >= 5 * 2  # the title, data, a block, stopped, failed: shown as text
    document = json.loads(found.scripts[0])
    assert document["study"] == HOSTILE
    assert HOSTILE in document["policies"]["criteria"]
    assert any("window.broken" in reason for reason in unpacked(document["trials"]["reason"]))


def test_nothing_is_loaded_and_only_known_scripts_run(tmp_path: Path) -> None:
    found = read(rich_view(tmp_path, mixed_trials()))
    (policy,) = (a["content"] or "" for tag, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert "unsafe" not in rules["script-src"]
    assert rules["script-src"].split() == [f"'sha256-{page._digest(script)}'" for script in found.scripts[1:]]
    sources = [a[name] for _, a in found.tags for name in ("src", "href", "action", "poster") if name in a]
    assert [source for source in sources if not (source or "").startswith(("#", "data:"))] == []


def test_embedded_json_ends_no_script_and_no_line() -> None:
    text = embedded_json({"a": HOSTILE, "b": "<!--\u2029"})
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == {"a": HOSTILE, "b": "<!--\u2029"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"))


def test_the_document_gives_every_number_of_the_choice_back(tmp_path: Path) -> None:
    trials = mixed_trials()
    document = held(rich_view(tmp_path, trials))
    columns = document["trials"]
    assert columns["number"] == [one.number for one in trials]
    assert unpacked(columns["kind"])[-3:] == [1, 3, 2]
    for name in ("accuracy", "loss", "mflops", "latency_ms", "size_mb", "mparams"):
        stored = unpacked(columns["values"][name])
        expected = [
            one.outcome.measurement.values.get(name) if not isinstance(one.outcome, Failed) else None for one in trials
        ]
        assert stored == expected
    errors = unpacked(columns["stderr"]["accuracy"])
    completed = [one.outcome.measurement for one in trials if isinstance(one.outcome, Completed)]
    assert errors[: len(completed)] == [m.error("accuracy") for m in completed]


def test_policies_are_told_in_counts() -> None:
    trials = mixed_trials(30)
    found = encode_policies([one.candidate.policy for one in trials], GROUPS)
    width = found["width"]
    for place, one in enumerate(trials):
        text = found["kept"][place]
        kept = [int(text[n * width : (n + 1) * width], 36) for n in range(len(GROUPS))]
        groups = one.candidate.policy.groups
        assert kept == [kept_channels(groups[n].sparsity, c) if n in groups else c for n, c in GROUPS.items()]
        assert [found["blocks"][index] for index in found["dropped"][place]] == list(
            one.candidate.policy.dropped_blocks
        )
        assert (found["masks"][place] is None) == (one.candidate.policy.mask is None)
    unknown = encode_policies([PruningPolicy.uniform(0.25, "l1", names=["a"])], {})
    assert unknown["groups"] == [{"name": "a", "channels": 1000, "known": False}]
    assert int(unknown["kept"][0], 36) == 750


def test_the_headline_says_the_best_and_its_ratios(make_view: MakeView) -> None:
    text = read(make_view([trial(0, measurement(0.979, 40.0, 2.05))])).text
    assert "The best network within 50 MFLOPs is trial 0." in text
    for part in ("97.90 %", "−1.00 points against dense, 98.90 %", "32 % of dense, 126", "2.00× as fast as dense"):
        assert part in text
    assert "the dense network 98.90 % −1.00 points" in text


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "The study has no finished trial yet."),
        (
            [trial(0, Failed("NonFiniteError", "loss is nan\nmore"))],
            "No trial has completed: there is nothing to choose",
        ),
        ([trial(0, measurement(0.97, 49))], "The best network within 50 MFLOPs is trial 0."),
        ([trial(0, measurement(0.97, 60))], "No completed trial is within 50 MFLOPs."),
        ([trial(0, measurement(0.0, 49)), trial(1, measurement(1.0, 49))], "is trial 1."),
    ],
)
def test_little_is_said_in_words_and_the_study_stays_as_it_was(make_view: MakeView, trials: Any, said: str) -> None:
    view = make_view(trials, running=1)
    found = read(view)
    assert said in found.text
    assert "may still be running" in found.text
    assert not view.folder.path.exists()
    for word in ("NaN", "Infinity", "undefined"):
        assert word not in found.scripts[0]
    if trials and isinstance(trials[0].outcome, Failed):
        assert "0 NonFiniteError: loss is nan" in found.text


def test_how_it_was_measured_is_told(tmp_path: Path) -> None:
    text = read(rich_view(tmp_path, mixed_trials())).text
    for part in (
        "1078 training, 540 validation, 360 test examples",
        "one FLOP = one multiply–accumulate",
        "0; each trial has its own",
        "1.25 epochs, batch 32, sgd",
        "batch 1, one thread",
        "cpu A processor",
        "python 3.11.7, torch 2.15.0",
        "fc: its channels are the network's output",
    ):
        assert part in text


def test_a_name_for_everything_a_reader_can_use(tmp_path: Path) -> None:
    found = read(rich_view(tmp_path, mixed_trials()))
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    labelled = {attributes["for"] for tag, attributes in found.tags if tag == "label"}
    for tag, attributes in found.tags:
        if tag in ("input", "select"):
            assert attributes["id"] in labelled
        if tag in ("section", "figure", "article"):
            assert attributes["aria-labelledby"] in ids
        if attributes.get("role") in ("region", "slider"):
            assert attributes["aria-label"]
            assert attributes["tabindex"] == "0"
    headings = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert next(attributes for tag, attributes in found.tags if tag == "html")["lang"] == "en"


def test_another_storage_is_asked_for_again(make_view: MakeView) -> None:
    view = make_view(many_trials(5))
    summary = summarise(view)
    assert json.loads(Reader(page_text(view, summary, elsewhere=True)).scripts[0])["elsewhere"] is True
    assert page_document(view, summary)["folder"] == str(view.folder.path)


def test_the_page_is_whole_and_not_too_large(
    make_view: MakeView, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.undo()
    _, files = write_report(make_view(many_trials(40)))
    text = files[0].read_text(encoding="utf-8")
    assert files[0].name == "report.html"
    assert len(text.encode("utf-8")) < 6_000_000
    assert len(re.findall(r"\* plotly\.js v", text)) == 1
    assert Reader(text).scripts[2].startswith("/**\n* plotly.js v")


def test_the_dense_network_alone_is_no_baseline(make_view: MakeView) -> None:
    document = held(make_view(many_trials(10)))
    assert document["dense"]["values"] == DENSE.values
    assert document["baselines"] == [0, 1, 2]
    assert document["costs"] == ["mflops", "latency_ms", "size_mb", "mparams"]
