"""What a report costs of a large study: seconds of ``autoprune report``, its parts, the page's size, and its opening.

A stored study of the real ResNet-56 space is filled with made-up finished trials, as ``bench_ask`` makes them, at many
costs and with some stopped and some failed; nothing is trained. The page is opened in a headless Chromium if there is
one.

    python scripts/bench_report.py                    # 5,000 trials
    python scripts/bench_report.py --trials 500 --json
    python scripts/bench_report.py --keep FOLDER      # leave the study there, to look at
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from bench_ask import OBJECTIVES, ask_proposals, made_up
from optuna.distributions import distribution_to_json

from autoprune.core.measurement import Measurement
from autoprune.core.trial import Completed, Failed, Stopped
from autoprune.study import trial_format as records
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import write_resolved
from autoprune.study.storage import open_storage
from autoprune.study.storage_url import sqlite_url

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="an empty or new folder for the study")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "study"
        store(folder, options.trials)
        found = measure(folder, options.repeats)
    if options.json:
        print(json.dumps({"trials": options.trials, **found}, indent=1))
        return
    for name, value in found.items():
        print(f"{name:24} {value}")


def store(folder: Path, count: int) -> None:
    """Write a study of made-up trials."""
    folder.mkdir(parents=True, exist_ok=True)
    files, proposals = StudyFolder(folder), ask_proposals("random")
    spec = StudySpec(name="large", objectives=OBJECTIVES)
    write_resolved(spec, files.resolved)
    study = optuna.create_study(
        storage=open_storage(sqlite_url(files.database)),
        study_name=spec.name,
        directions=records.directions(OBJECTIVES),
    )
    groups = {group.name: {"channels": group.num_channels, "residual": False} for group in proposals.space.groups}
    dense = proposals.dense.merged(Measurement({}, {"accuracy": 0.004}))
    session = {"budget": proposals.budget.to_json(), "started": "2026-01-01T00:00:00+00:00"}
    for key, value in {"dense": dense.to_json(), "groups": groups, "session:0": session}.items():
        study.set_user_attr(key, json.dumps(value))
    made = [varied(record, number) for number, record in enumerate(made_up(proposals, count))]
    with sqlite3.connect(files.database) as connection:
        for number, trial in enumerate(made):
            insert(connection, study._study_id, number, trial)
    connection.close()


def insert(connection: sqlite3.Connection, study_id: int, number: int, trial: optuna.trial.FrozenTrial) -> None:
    """Store a trial as Optuna does, without its commit for each; that alone would take an hour for 5,000 trials."""
    row = connection.execute(
        "INSERT INTO trials (number, study_id, state) VALUES (?, ?, ?)", [number, study_id, trial.state.name]
    ).lastrowid
    connection.executemany(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
        [
            (
                row,
                name,
                trial.distributions[name].to_internal_repr(value),
                distribution_to_json(trial.distributions[name]),
            )
            for name, value in trial.params.items()
        ],
    )
    connection.executemany(
        "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
        [(row, place, value) for place, value in enumerate(trial.values or ())],
    )
    connection.executemany(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
        [(row, key, json.dumps(value)) for key, value in trial.user_attrs.items()],
    )


def varied(record: optuna.trial.FrozenTrial, number: int) -> optuna.trial.FrozenTrial:
    """Return a made-up trial at a cost and accuracy of its own; every tenth is stopped, every fiftieth fails."""
    draw = random.Random(number)
    share = draw.uniform(0.1, 1.0)
    outcome = records.outcome_of(record)
    if not isinstance(outcome, Completed):
        raise TypeError(f"trial {number} is made up as {outcome}; expected a completed one")
    found = outcome.measurement
    values = {name: value * share for name, value in found.values.items() if name not in ("accuracy", "loss")}
    right = round(5000 * max(0.1, found["accuracy"] - 0.05 * (1 / share - 1) + draw.gauss(0, 0.004)))
    values |= {"accuracy": right / 5000, "loss": 0.3 + draw.random() / 10}
    ended: Completed | Stopped | Failed = Completed(Measurement(values, {"accuracy": 0.005, "latency_ms": 0.02}))
    if number % 10 == 9:
        ended = Stopped(f"loss {draw.random():.4f} after recalibration foretells more than the best", found)
    if number % 50 == 49:
        ended = Failed("NonFiniteError", f"the loss is NaN at step {number}")
    seconds = {"prune": 0.1, "finetune": 5 + draw.random(), "score": 0.8, "latency": 0.9}
    state, told = records.told_as(ended, OBJECTIVES)
    attributes = {**record.user_attrs, records.OUTCOME: records.outcome_record(ended, seconds)}
    return optuna.trial.create_trial(
        state=state,
        values=told,
        params=record.params,
        distributions=record.distributions,
        user_attrs=attributes,
    )


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Return seconds of the command, fastest of some runs, the page's megabytes, and seconds until it is drawn."""
    command = [sys.executable, "-m", "autoprune", "report", str(folder), "--json"]
    page = folder / "report.html"
    return {
        "report_seconds": round(min(timed(command) for _ in range(repeats)), 2),
        "page_mb": round(page.stat().st_size / 1e6, 2),
        **opened(page, repeats),
    }


def timed(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def opened(page: Path, repeats: int) -> dict[str, Any]:
    """Return milliseconds from the beginning of loading to everything drawn, and of one move of the budget."""
    browser = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if browser is None:
        return {"opened": "not measured: there is no Chromium"}
    from playwright.sync_api import sync_playwright

    drawn, moved = list[float](), list[float]()
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(repeats):
            tab = chromium.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.resolve().as_uri(), wait_until="commit")
            tab.wait_for_selector("html[data-ready]", state="attached")
            drawn.append(tab.evaluate("performance.getEntriesByName('drawn')[0].startTime"))
            moved.append(
                tab.evaluate(
                    "() => { const from = performance.now(); const box = document.getElementById('budget');"
                    " for (let n = 1; n <= 20; n++) { box.value = 20 + n; box.dispatchEvent(new Event('input')); }"
                    " document.body.offsetHeight; return (performance.now() - from) / 20; }"
                )
            )
            tab.close()
        chromium.close()
    return {"drawn_ms": round(min(drawn)), "budget_moved_ms": round(min(moved), 1)}


if __name__ == "__main__":
    main()
