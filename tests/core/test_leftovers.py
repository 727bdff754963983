"""What a killed process leaves behind is gone with the next command; what a living one writes stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.core.atomic_write import write_text
from autoprune.core.leftovers import is_alive, remove_leftovers, scratch_folder, temporary_neighbour
from autoprune.study.folder import StudyFolder


@pytest.fixture(scope="module")
def dead() -> int:
    """Return the number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_what_dead_processes_began_goes(tmp_path: Path, dead: int) -> None:
    gone = [f".front.csv.{dead}.tmp", f".a.b.tar.gz.{dead}.tmp.gz", f".study.{dead}.tmp"]
    kept = [f".front.csv.{os.getpid()}.tmp", f"front.{dead}.tmp", ".notes.tmp", f".x.{dead}.tmp.b.c", "study.toml"]
    for name in (*gone[:2], *kept):
        (tmp_path / name).write_text("half")
    (tmp_path / gone[2]).mkdir()
    (tmp_path / gone[2] / "file").write_text("half")
    assert not is_alive(dead)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_leftovers(tmp_path / "nowhere")


def test_whatever_is_written_next_or_searched_next_tidies_up(tmp_path: Path, dead: int) -> None:
    left = tmp_path / f".report.html.{dead}.tmp"
    left.write_text("half")
    write_text(tmp_path / "front.csv", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["front.csv"]
    folder = StudyFolder(tmp_path)
    folder.teacher.mkdir()
    (folder.teacher / f".3.safetensors.{dead}.tmp").write_text("half")
    folder.create()
    assert list(folder.teacher.iterdir()) == []


def test_scratch_folders_of_killed_processes_go_with_the_next(
    tmp_path: Path, dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"autoprune-export-{dead}-abc").mkdir()
    (tmp_path / "autoprune-export-mine").mkdir()
    with scratch_folder("export") as folder:
        assert folder.is_dir()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, "autoprune-export-mine"])
    assert not folder.exists()


def test_a_temporary_neighbour_keeps_the_ending_that_says_how_a_file_is_packed() -> None:
    assert temporary_neighbour(Path("x/a.tar.gz")).name == f".a.tar.gz.{os.getpid()}.tmp.gz"
