"""Code that a file from elsewhere names is run only if that is allowed; what is the user's own needs no word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from tiny import write_study

import autoprune
from autoprune.cli import main
from autoprune.errors import UntrustedCodeError
from autoprune.study.folder import StudyFolder
from autoprune.study.named_code import check_code_is_trusted, code_in, read_mark
from autoprune.study.spec_toml import Layer, parse_spec, read_resolved

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a study whose network and data are code; the code writes down that it ran."""
    place = tmp_path_factory.mktemp("trust")
    folder = write_study(place / "studies", trials=2)
    run("search", folder, "--quiet")
    run("studies", "export", folder, place / "tiny.tar.gz")
    return place / "tiny.tar.gz"


def test_an_imported_study_asks_once(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(archive.parent / "code", tmp_path / "code")
    monkeypatch.chdir(tmp_path / "code")  # where tiny.py lies
    said = run("studies", "import", archive, "--root", tmp_path).stdout
    assert "names code that a search or pick would run: tiny.py:net (model.source), tiny.py:data (data.source)" in said
    assert "MB unpacked" in said
    folder = tmp_path / "tiny"
    for command in (("search", folder, "--trials", "3"), ("pick", folder, "--trial", "0"), ("inspect", folder)):
        refused = run(*command, code=2)
        assert "allow it once with --trust-code" in refused.stderr
    run("report", folder)
    run("studies", "cp", folder, tmp_path / "copy")
    run("search", tmp_path / "copy", "--trials", "3", code=2)
    run("search", folder, "--trials", "3", "--trust-code", "--quiet")
    run("search", folder, "--trials", "4", "--quiet")
    mark = read_mark(StudyFolder(folder))
    assert mark is not None
    assert mark.trusted


def test_what_the_user_names_needs_no_trust(archive: Path, tmp_path: Path) -> None:
    code = archive.parent / "code" / "tiny.py"
    places = ("--model", f"{code}:net", "--data", f"{code}:data")
    found = json.loads(run("studies", "import", archive, "--root", tmp_path, "--json", *places).stdout)
    assert found["code"] == {}
    assert found["needs"] == {"model.source": f"{code}:net", "data.source": f"{code}:data"}
    assert not (tmp_path / "tiny" / "imported.json").exists()
    run("inspect", tmp_path / "tiny")


def test_consent_at_the_import(archive: Path, tmp_path: Path) -> None:
    assert "--trust-code once" not in run("studies", "import", archive, "--root", tmp_path, "--trust-code").stdout
    folder = StudyFolder(tmp_path / "tiny")
    check_code_is_trusted(folder, read_resolved(folder.resolved))


def test_other_code_than_the_archive_s_is_the_user_s_own(archive: Path, tmp_path: Path) -> None:
    run("studies", "import", archive, "--root", tmp_path)
    folder = StudyFolder(tmp_path / "tiny")
    own = {"model": {"source": "mine.py:net"}, "data": {"source": "digits"}}
    check_code_is_trusted(folder, parse_spec([Layer("test", own)]))
    with pytest.raises(UntrustedCodeError, match=r"tiny.py:net \(model.source\)"):
        check_code_is_trusted(folder, read_resolved(folder.resolved))


@pytest.mark.parametrize("content", ["", "[]", '{"code": 3}', "[" * 10**5, '{"archive": "a", "code": {"a": 1}}'])
def test_a_damaged_mark_is_no_consent(content: str, tmp_path: Path) -> None:
    (tmp_path / "imported.json").write_text(content)
    with pytest.raises(autoprune.AutopruneError, match="import the study again"):
        check_code_is_trusted(StudyFolder(tmp_path), parse_spec([]))


def test_what_is_code() -> None:
    values = {
        "model": {"source": "os:system"},
        "data": {"source": "imagefolder:photos"},
        "space": {"importances": ["l1", "mine.py:score"]},
        "logging": {"loggers": ["tensorboard", "pkg.mod:Log"]},
    }
    assert code_in(parse_spec([Layer("test", values)])) == {
        "model.source": ("os:system",),
        "space.importances": ("mine.py:score",),
        "logging.loggers": ("pkg.mod:Log",),
    }
    assert code_in(parse_spec([Layer("test", {"model": {"source": "torchvision:resnet18"}})])) == {}


def test_load_trial_and_load_and_profile_ask(archive: Path, tmp_path: Path) -> None:
    folder = archive.parent / "studies" / "tiny"
    with pytest.raises(UntrustedCodeError, match=r"tiny.py:net', which would be run.*trust_code=True"):
        autoprune.load_trial(folder, 0)
    assert autoprune.load_trial(folder, 0, trust_code=True)(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    done = run("pick", folder, "--trial", "0", "--finetune-epochs", "0", "--no-compare", "--export", "none", "-q")
    assert ", trust_code=True)" in done.stdout
    picked = folder / "picked" / "0"
    with pytest.raises(UntrustedCodeError):
        autoprune.load(picked)
    run("profile", picked, code=2)
    run("profile", picked, "--trust-code")
