"""A ``study.toml`` names code that lies beside it, and means that code from whatever folder a command runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.cli.read_request import read_request
from autoprune.study.code_beside import with_code_beside
from autoprune.study.find_study import local_studies

TOML = '[model]\nsource = "net.py:build"\n[data]\nsource = "elsewhere.py:task"\n[loop]\nfinetune = "net.py:train"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "home" / "studies" / "mine"
    made.mkdir(parents=True)
    (made / "study.toml").write_text(TOML)
    (made / "net.py").touch()
    return made


def test_a_file_beside_is_meant_wherever_the_command_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for place, study in ((folder.parents[1], "mine"), (folder, "."), (folder.parents[2], str(folder))):
        monkeypatch.chdir(place)
        found[place] = read_request(study, Path("studies"), {}).spec
    assert [spec.model.source for spec in found.values()] == [
        "studies/mine/net.py:build",
        "net.py:build",
        "home/studies/mine/net.py:build",
    ]
    assert found[folder].loop.finetune == "net.py:train"
    assert {spec.data.source for spec in found.values()} == {"elsewhere.py:task"}  # not there, so as it is written


def test_it_comes_before_a_file_of_that_name_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parents[1])
    Path("net.py").touch()
    Path("elsewhere.py").touch()
    spec = read_request("mine", Path("studies"), {}).spec
    assert (spec.model.source, spec.data.source) == ("studies/mine/net.py:build", "elsewhere.py:task")


def test_the_command_line_means_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parents[1])
    spec = read_request("mine", Path("studies"), {"model": {"source": "net.py:build"}}).spec
    assert spec.model.source == "net.py:build"


def test_a_recipe_means_its_own_file_from_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = local_studies(Path(__file__).parents[2] / "studies")["digits-unet"]
    assert read_request("digits-unet", Path("studies"), {}).spec.data.source == f"{recipe.parent}/digits_unet.py:task"


def test_lists_and_everything_else_stay_what_they_are(folder: Path) -> None:
    values = {"space": {"importances": ["l2", "net.py:mine", "pkg.mod:fn"]}, "trials": 3, "model": "no table"}
    placed = with_code_beside(values, folder)
    assert placed == {**values, "space": {"importances": ["l2", f"{folder}/net.py:mine", "pkg.mod:fn"]}}
    assert values["space"] == {"importances": ["l2", "net.py:mine", "pkg.mod:fn"]}
