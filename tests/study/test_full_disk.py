"""On a full disk a study is still read, and what would write ends with one line."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest
from stored_fakes import good, store
from tiny import command, environment

ROOM = 1024  # bytes that a file may grow to: the system refuses more, as a full disk does


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return store(tmp_path / "studies" / "fake", [good(0.91), good(0.95)]).path


def without_room(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        env=environment(),
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM)),
    )


@pytest.mark.long
def test_the_table_is_shown_where_neither_the_report_nor_the_log_of_sqlite_finds_room(folder: Path) -> None:
    for _ in range(2):  # the first may leave an empty log behind
        done = without_room("report", folder)
        assert done.returncode == 0, done.stderr
        assert "the report's files are not written" in done.stderr
        assert "95.00" in done.stdout
    assert not (folder / "report.html").exists()


def test_an_export_without_room_is_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    done = without_room("studies", "export", folder, tmp_path / "fake.zip")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("autoprune: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["studies"]
