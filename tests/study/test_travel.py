"""A study that travels: exported here, imported where its network and data lie elsewhere, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny import stored_trials, write_study

import autoprune
from autoprune.cli import main
from autoprune.study.manage.remove import what_stays

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.long
def test_a_study_is_searched_reported_and_picked_from_on_another_machine(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    folder = write_study(here / "studies", trials=3)
    first = run("search", folder, "--quiet")
    assert first.stderr == "", "nothing is to be warned of"
    assert "best within budget" in first.stdout
    trials = stored_trials(folder)
    exported = run("studies", "export", folder, tmp_path / "tiny.tar.gz")
    assert "also needed: tiny.py:net (model.source)" in exported.stdout
    shutil.move(here / "code", there / "code")
    shutil.rmtree(here)

    code = there / "code" / "tiny.py"
    places = ("--model", f"{code}:net", "--data", f"{code}:data")
    run("studies", "import", tmp_path / "tiny.tar.gz", "--as", "theirs", "--root", there, *places)
    second = run("search", there / "theirs", "--trials", "5", "--verbose")
    assert "trial 3: finetune" in second.stderr
    assert "    seconds: " in second.stderr
    now = stored_trials(there / "theirs")
    assert [found["number"] for found in now] == [0, 1, 2, 3, 4]
    assert [found["outcome"] for found in now[:3]] == [found["outcome"] for found in trials]
    log = (there / "theirs" / "search.log").read_text()
    assert "training the dense network" not in log, "the weights came along"
    assert [log.count(f"trial {number} begins") for number in range(5)] == [0, 0, 0, 1, 1]
    assert log.count("session ends") == 1

    run("studies", "cp", "theirs", "copy", "--root", there)
    run("search", there / "copy", "--trials", "6")
    assert (len(stored_trials(there / "copy")), len(stored_trials(there / "theirs"))) == (6, 5)
    card = json.loads(run("pick", there / "copy", "--top", "1", "--no-compare", "--json", "-q").stdout)
    assert autoprune.load(card["folder"], trust_code=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert "uniform" in run("report", there / "copy").stdout
    assert what_stays(there / "copy") == (), "whatever autoprune makes in a study, `studies rm` knows"
