"""``autoprune time``: the program it writes is the one that ships, and `-` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from onnx_files import request

from autoprune.cli import main
from autoprune.export import timing_script
from autoprune.export.onnx import missing_packages


def test_the_script_is_the_very_file_that_ships() -> None:
    result = CliRunner().invoke(main, ["time", "--script"])
    assert result.exit_code == 0
    assert result.stdout_bytes == Path(timing_script.__file__).read_bytes()


@pytest.mark.skipif(bool(missing_packages()), reason="needs onnxruntime")
def test_an_archive_on_standard_input_is_timed() -> None:
    result = CliRunner().invoke(main, ["time", "-", "--host", "board"], input=request().archive())
    assert result.exit_code == 0
    assert json.loads(result.stdout)["host"] == "board"


def test_what_is_no_archive_is_a_document_and_exit_code_1() -> None:
    result = CliRunner().invoke(main, ["time", "-"], input=b"nothing")
    assert result.exit_code == 1
    assert "tar" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("arguments", [["--script", "mine"], ["-", "--latency-command", "x"], ["mine", "--host", "pi"]])
def test_options_that_make_no_sense_together_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["time", *arguments]).exit_code == 2


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["time", "--root", str(tmp_path), "digits-resnet20"])
    assert result.exit_code == 1
    assert "there is no stored study" in result.stderr
