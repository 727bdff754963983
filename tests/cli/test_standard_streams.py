"""What the command line leaves with when its output breaks or the machine refuses: one line, the documented code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import command, environment, write_study

from autoprune.cli import main

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def ended(*arguments: str, stdout: object = subprocess.PIPE, stderr: object = subprocess.PIPE) -> tuple[int, str]:
    """Run the installed command with given streams; return its code and what it said on stderr."""
    done = subprocess.run(
        command(*arguments), env=environment(), text=True, stdout=stdout, stderr=stderr, timeout=120, check=False
    )
    return done.returncode, done.stderr or ""


@needs_full
@pytest.mark.parametrize(
    "arguments", [["studies", "--root", "nowhere"], ["--help"], ["report", "--help"], ["--version"]]
)
def test_a_full_disk_under_standard_output_is_one_line_and_1(arguments: list[str]) -> None:
    with FULL.open("w") as full:
        code, said = ended(*arguments, stdout=full)
    assert (code, said) == (
        1,
        "autoprune: standard output cannot be written: No space left on device; free the disk\n",
    )


@pytest.mark.parametrize("arguments", [["report", "--help"], ["studies", "--json", "--root", "nowhere"]])
def test_a_reader_that_is_gone_ends_a_command_with_0_and_without_a_word(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert ended(*arguments, stdout=writing) == (0, "")
    finally:
        os.close(writing)


@needs_full
def test_an_error_keeps_its_code_where_nobody_can_read_it() -> None:
    with FULL.open("w") as full:
        assert ended("report", "nosuch", stderr=full)[0] == 2
        assert ended("report", "nosuch", stdout=full)[0] == 2


@pytest.mark.long
@needs_full
def test_a_search_goes_on_when_its_progress_can_no_longer_be_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=2)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert ended("search", str(folder), stderr=writing)[0] == 0
    finally:
        os.close(writing)
    assert (folder / "report.html").exists() is False
    with FULL.open("w") as full:
        assert ended("search", str(folder), "--trials", "3", stderr=full)[0] == 0


@pytest.mark.parametrize("name", ["a" * 300, "loop/study"])
def test_what_the_system_refuses_is_one_line_and_1(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for arguments in (["report", str(tmp_path / name)], ["studies", "rm", str(tmp_path / name), "--yes"]):
        result = CliRunner(env={"AUTOPRUNE_STORAGE": ""}).invoke(main, arguments)
        assert result.exit_code in (1, 2), result.output
        assert result.stderr.startswith("autoprune: ")
        assert len(result.stderr.splitlines()) == 1
