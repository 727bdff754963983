"""Studies at the edge of what makes sense: searched, reported and picked from, by the sampler that is the default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from click.testing import CliRunner, Result
from tiny import stored_trials, write_study

from autoprune.cli import main
from autoprune.study.spec_toml import read_study_toml


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: str | Path, code: int = 0) -> Result:
    """Run a command in this process; it must leave with ``code``."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def card_of(folder: Path, *options: str) -> Any:
    return json.loads(run("pick", folder, *options, "--json").stdout)


@pytest.mark.long
def test_one_group_and_forty_eight_images(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    run("search", folder, "--only", "conv2", "--sampler", "auto", "--budget-mflops", "60%", "--trials", "6")
    trials = stored_trials(folder)
    assert {group for trial in trials for group in trial["policy"]["groups"]} == {"conv2"}
    assert {trial["origin"].partition(":")[0] for trial in trials} == {"baseline", "guided"}
    text = " ".join(run("report", folder).stdout.split())
    assert "with 48 validation examples differences below" in text
    assert "cannot be told apart" in text
    card = card_of(folder)
    assert card["validation"]["values"]["mflops"] <= 0.6 * card["dense"]["validation"]["values"]["mflops"]


@pytest.mark.long
def test_a_budget_at_the_floor(tmp_path: Path) -> None:
    import re

    folder = write_study(tmp_path / "studies")
    refused = run("search", folder, "--sampler", "auto", "--budget-mparams", "0.00001", code=2)
    floor = re.search(r"smallest network of this search space has ([\d.]+) M parameters", refused.stderr)
    assert floor is not None
    run("search", folder, "--sampler", "auto", "--budget-mparams", floor[1], "--trials", "4")
    groups = [group for trial in stored_trials(folder) for group in trial["policy"]["groups"].values()]
    assert len(stored_trials(folder)) == 4
    assert sum(sparsity > 0.8 for sparsity, _ in groups) > len(groups) / 2
    run("report", folder)
    assert card_of(folder)["validation"]["values"]["mparams"] <= float(floor[1])


@pytest.mark.long
def test_a_network_at_chance_is_searched_and_picked_with_a_warning(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=2)
    assert "is at chance" in run("search", folder, "--sampler", "auto", "--dense-epochs", "0").stderr
    card = card_of(folder, "--top", "1")
    assert card["against"]["dense"]["test"]["stderr"] >= 0


def as_older(folder: Path) -> None:
    """Take from a study what an earlier version did not write: sensitivity, and the tables of its spec."""
    values = read_study_toml(folder / "resolved.toml")
    for name in ("sensitivity", "stopping", "schedule", "sparsity", "logging"):
        values.pop(name, None)
    (folder / "resolved.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    (folder / "sensitivity.json").unlink(missing_ok=True)


@pytest.mark.long
def test_an_older_study_without_sensitivity_is_reported_picked_and_searched_on(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=4)
    run("search", folder, "--no-sensitivity", "--no-stopping")
    as_older(folder)
    assert "sensitivity.png" not in run("report", folder).stdout
    card_of(folder)
    assert not (folder / "sensitivity.json").exists(), "a pick proposes nothing"
    run("search", folder, "--sampler", "auto", "--trials", "7")
    assert (folder / "sensitivity.json").exists()
    later = [trial["origin"].partition(":") for trial in stored_trials(folder)[4:]]
    assert {kind for kind, _, name in later if name != "knapsack"} == {"guided"}
    run("report", folder)
