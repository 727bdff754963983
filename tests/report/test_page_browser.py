"""report.html in a real Chromium: it loads alone, chooses as pareto.py does, and its command picks that very trial."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_studies import BUDGET
from judged_studies import RMSE, judged, judged_trial, judged_view
from page_studies import HOSTILE, mixed_trials, rich_view

from autoprune.analysis.pareto import best_within, choose
from autoprune.cli.pick import PickRequest, pick
from autoprune.core.budget import Budget
from autoprune.core.metrics import ACCURACY
from autoprune.core.trial import Trial
from autoprune.pick.choose_trials import choose_trials
from autoprune.report.content.summary import summarise
from autoprune.report.page.html import write_page
from autoprune.study.view import StudyView

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is in the test extra")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; .ci/run installs Debian's")

LIGHT, DARK = "light", "dark"


@dataclass
class Opened:
    """Hold a tab with the report in it, and whatever went wrong there."""

    tab: Any
    view: StudyView
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def chosen(self) -> int | None:
        """Return the trial that the page chooses now."""
        title = self.tab.locator("#chosen thead th").nth(1)
        return int(title.inner_text().removeprefix("Trial ")) if title.count() else None

    def command(self, card: str = "chosen") -> str:
        return str(self.tab.locator(f"#{card} .command").inner_text())

    def type_budget(self, text: str) -> None:
        self.tab.locator("#budget").fill(text)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyView:
    """Return a study of 60 trials with odd text everywhere, whose page is written, in a folder with a space."""
    view = rich_view(tmp_path_factory.mktemp("page") / "a study's", mixed_trials())
    write_page(view, summarise(view), view.folder.path / "report.html")
    return view


@pytest.fixture(scope="module")
def opened(browser: Any, study: StudyView) -> Iterator[Opened]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    found = Opened(tab, study)
    tab.on(
        "console", lambda message: found.faults.append(message.text) if message.type in ("error", "warning") else None
    )
    tab.on("pageerror", lambda error: found.faults.append(str(error)))
    tab.on("request", lambda request: found.requests.append(request.url))
    tab.goto((study.folder.path / "report.html").as_uri(), wait_until="commit")
    tab.wait_for_selector("html[data-ready]", state="attached")
    yield found
    tab.close()


@pytest.fixture
def page(opened: Opened) -> Iterator[Opened]:
    """Return the tab as it was when it opened; nothing may go wrong in it."""
    opened.tab.locator("label[for=cost-mflops]").click()
    opened.type_budget("50")
    yield opened
    assert opened.faults == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def within(view: StudyView, **limits: float) -> Trial | None:
    return best_within(view.trials, Budget.parse(limits), ACCURACY, dense=view.dense)


def number_of(trial: Trial | None) -> int | None:
    return trial.number if trial else None


def test_it_loads_alone_and_runs_nothing_that_a_study_holds(page: Opened) -> None:
    assert page.tab.evaluate("window.broken") is None
    assert page.tab.locator("h1").inner_text().split() == HOSTILE.split()
    assert page.tab.locator("main img, main iframe").count() == 0
    assert page.tab.locator("#front .scatterlayer").count() == 1
    assert page.chosen() == number_of(within(page.view, mflops=50))
    blocked = page.tab.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert blocked == "refused"
    assert page.faults, "the policy's refusal is an error of the console"
    page.faults.clear()
    page.requests[:] = [url for url in page.requests if "example.org" not in url]


@pytest.mark.parametrize("limit", ["50", "49.99", "33.3", "28", "21.5", "17.2", "5", "1e3", "40.000000000000001"])
def test_a_typed_budget_chooses_as_pareto_does(page: Opened, limit: str) -> None:
    page.type_budget(limit)
    assert page.chosen() == number_of(within(page.view, mflops=float(limit)))


def test_every_cost_of_a_trial_is_a_budget_that_it_meets(page: Opened) -> None:
    """Limits on the very last bit of what was measured are where two ways to compare would part."""
    page.tab.locator("label[for=cost-latency_ms]").click()
    page.type_budget("")
    limits = sorted(m["latency_ms"] for m in (t.outcome.measurement for t in page.view.trials[:60]))
    for limit in [*limits[::6], limits[0] * (1 - 1e-13), limits[0] * (1 - 1e-11)]:
        page.type_budget(repr(limit))
        assert page.chosen() == number_of(within(page.view, latency_ms=limit, mflops=50)), limit
    page.tab.locator("#other-limits button").click()
    page.type_budget(repr(limits[30]))
    assert page.chosen() == number_of(within(page.view, latency_ms=limits[30]))
    page.tab.locator("#no-limit").click()
    assert page.chosen() == number_of(within(page.view))


def test_a_dragged_budget_chooses_as_pareto_does(page: Opened) -> None:
    handle = page.tab.locator("#handle")
    handle.scroll_into_view_if_needed()
    seen = set()
    for move in (-180, -260, -150, 420):
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.tab.mouse.move(x, y)
        page.tab.mouse.down()
        page.tab.mouse.move(x + move / 2, y + 3)
        page.tab.mouse.move(x + move, y)
        page.tab.mouse.up()
        limit = float(page.tab.locator("#budget").input_value())
        assert page.chosen() == number_of(within(page.view, mflops=limit))
        assert f"--budget-mflops {limit:g} " in page.command()
        seen.add(page.chosen())
    assert len(seen) > 2, "the line moved, and the choice did not"


def test_keys_move_the_line_and_say_what_it_chooses(page: Opened) -> None:
    handle = page.tab.locator("#handle")
    handle.focus()
    for key, count in (("ArrowLeft", 3), ("PageDown", 2), ("ArrowUp", 1), ("Home", 1), ("End", 1)):
        for _ in range(count):
            page.tab.keyboard.press(key)
        limit = float(page.tab.locator("#budget").input_value())
        expected = within(page.view, mflops=limit)
        assert page.chosen() == number_of(expected)
        assert float(handle.get_attribute("aria-valuenow")) == limit
        assert f"trial {number_of(expected)}" in handle.get_attribute("aria-valuetext")
    page.tab.locator("#budget").focus()
    page.tab.keyboard.press("ArrowDown")
    assert float(page.tab.locator("#budget").input_value()) < limit


@pytest.mark.parametrize("limit", ["50", "23.75"])
def test_the_copied_command_picks_that_very_trial(page: Opened, limit: str) -> None:
    page.type_budget(limit)
    words = shlex.split(page.command())
    assert words[:2] == ["autoprune", "pick"]
    with pick.make_context("pick", words[2:], help_option_names=["-h", "--help"]) as context:
        options = dict(context.params)
    assert Path(options["study"]) == page.view.folder.path
    own = {name: value for name, value in options.items() if name not in ("study", "root", "storage", "as_json")}
    budget, (found,) = choose_trials(page.view, PickRequest.of(own).wish)
    assert found.number == page.chosen()
    assert choose(page.view.trials, budget, ACCURACY, dense=page.view.dense) == found
    assert budget == Budget.parse({"mflops": limit})
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.tab.locator("#chosen .copy").click()
    playwright.expect(page.tab.locator("#chosen .copy")).to_have_text("Copied")
    assert page.tab.evaluate("navigator.clipboard.readText()") == page.command()


def test_two_policies_stand_side_by_side(page: Opened) -> None:
    dropping = next(t for t in page.view.trials if t.candidate.policy.dropped_blocks and t.candidate.policy.mask)
    page.tab.locator("#compare-number").fill(str(dropping.number))
    page.tab.locator("#compare-number").press("Tab")
    rows = page.tab.locator("#policy-table tbody tr")
    table = {
        rows.nth(n).locator("th").inner_text(): rows.nth(n).locator("td").nth(1).inner_text()
        for n in range(rows.count())
    }
    kept = round(16 * (1 - dropping.candidate.policy.groups["conv1"].sparsity))
    assert f"{kept} of 16" in table["conv1"]
    assert table["layer2.1.conv1"] == "dropped with its block"
    assert table["block layer2.1"] == "dropped whole"
    assert "50 % of weights zero" in table["mask layer2.0.conv1"]
    assert f"--trial {dropping.number}" in page.command("compared")


def test_the_table_sorts_narrows_and_downloads(page: Opened, tmp_path: Path) -> None:
    page.tab.locator("#which").select_option("all")
    page.tab.locator("th[data-column=mflops] button").click()
    heading = page.tab.locator("th[data-column=mflops]")
    assert heading.get_attribute("aria-sort") == "ascending"
    first = page.tab.locator("#trials-table tbody tr").first.locator("th").inner_text()
    completed = [t for t in page.view.trials if t.number < 60]
    assert int(first) == min(completed, key=lambda t: t.outcome.measurement["mflops"]).number
    with page.tab.expect_download() as waiting:
        page.tab.locator("#download").click()
    waiting.value.save_as(tmp_path / "trials.csv")
    import csv

    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        lines = {int(line["trial"]): line for line in csv.DictReader(file)}
    assert len(lines) == len(page.view.trials)
    for one in completed:
        assert float(lines[one.number]["accuracy"]) == one.outcome.measurement["accuracy"]
    assert "window.broken" in lines[61]["reason"]


def test_it_fits_a_phone_the_dark_and_paper(page: Opened) -> None:
    tab = page.tab
    for width, scheme in ((390, LIGHT), (390, DARK), (1280, DARK)):
        tab.set_viewport_size({"width": width, "height": 844})
        tab.emulate_media(color_scheme=scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        colours = tab.evaluate("[...'backgroundColor color'.split(' ')].map((n) => getComputedStyle(document.body)[n])")
        assert contrast(*colours) > 7
        playwright.expect(tab.locator("#front .main-svg").first).to_have_attribute("width", str(inner_width(tab)))
        assert len(tab.screenshot()) > 20_000
    tab.emulate_media(media="print")
    assert tab.locator("#handle").is_hidden()
    assert tab.locator("h1").is_visible()
    tab.emulate_media(media="screen", color_scheme=LIGHT)
    tab.set_viewport_size({"width": 1280, "height": 900})


def inner_width(tab: Any) -> int:
    return int(tab.evaluate("document.getElementById('front').clientWidth"))


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours written ``rgb(…)``, as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_study_with_nothing_to_choose_from_opens_too(browser: Any, tmp_path: Path) -> None:
    faults: list[str] = []
    for name, trials in (("none", []), ("failed", mixed_trials()[-2:-1])):
        view = rich_view(tmp_path / name, trials)
        write_page(view, summarise(view, BUDGET), tmp_path / name / "report.html")
        tab = browser.new_page()
        tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto((tmp_path / name / "report.html").as_uri(), wait_until="commit")
        tab.wait_for_selector("html[data-ready]", state="attached")
        tab.close()
    assert faults == []


def test_a_page_of_a_metric_that_should_be_small_chooses_as_pareto_does(browser: Any, tmp_path: Path) -> None:
    found = [judged(RMSE, 0.52 + 0.02 * n, 50 - 3 * n, 0.03, loss=1 - n / 10, accuracy=0.9) for n in range(8)]
    trials = [judged_trial(n, one) for n, one in enumerate([*found, judged(RMSE, 9.0, 10, 0.02, accuracy=0.1)])]
    view = judged_view(tmp_path / "x", trials, judged(RMSE, 0.5, 100, 0.02, accuracy=0.91), RMSE, ACCURACY)
    (tmp_path / "x").mkdir()
    write_page(view, summarise(view), tmp_path / "x" / "report.html")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    page = Opened(tab, view)
    tab.on("pageerror", lambda error: page.faults.append(str(error)))
    tab.goto((tmp_path / "x" / "report.html").as_uri(), wait_until="commit")
    tab.wait_for_selector("html[data-ready]", state="attached")
    for limit in ("50", "45", "33", "12"):
        page.type_budget(limit)
        assert page.chosen() == number_of(best_within(trials, Budget.parse({"mflops": limit}), RMSE, dense=view.dense))
    page.type_budget("50")
    assert (
        tab.locator("#choice").inner_text().startswith("The best within 50 MFLOPs is trial 1: rmse 0.5400 ± 0.0300 mm")
    )
    assert tab.locator("#chosen td").nth(1).inner_text() == "+0.0400 mm"
    assert "above the picture" in tab.locator("#legend").inner_text()
    assert "rmse mm ↑" in tab.locator("#trials-table thead").inner_text()
    assert page.faults == []
    tab.close()


def test_the_first_view_is_quality_against_latency_where_that_is_traded(opened: Opened) -> None:
    opened.tab.reload(wait_until="commit")
    opened.tab.wait_for_selector("html[data-ready]", state="attached")
    assert opened.tab.locator("#cost-latency_ms").is_checked()
    chip = opened.tab.locator("#other-limits button").first
    assert "50 MFLOPs" in chip.inner_text(), "the budget holds, and is shown beside"
