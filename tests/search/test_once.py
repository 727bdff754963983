"""What is computed once per study is read afterwards, unless what is stored does not serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import StudyError
from autoprune.search.setup.once import once, unless_damaged


class Counted:
    """A number that is computed, and how often it was."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> int:
        self.made += 1
        return 6 * 7


def read(path: Path) -> int | None:
    return int(path.read_text(encoding="utf-8")) or None


@pytest.mark.parametrize("content", [str, lambda number: str(number).encode()])
def test_it_is_made_once_and_then_read(tmp_path: Path, content: object) -> None:
    make, path = Counted(), tmp_path / "answer"
    found = [once(path, read, make, content) for _ in range(3)]  # type: ignore[arg-type]
    assert (found, make.made, path.read_bytes()) == ([42, 42, 42], 1, b"42")


def test_what_does_not_serve_is_made_again(tmp_path: Path) -> None:
    make, path = Counted(), tmp_path / "answer"
    path.write_text("0", encoding="utf-8")
    assert once(path, read, make, str) == 42
    assert (make.made, path.read_bytes()) == (1, b"42")


def test_what_is_damaged_is_made_again_only_if_that_is_wanted(tmp_path: Path) -> None:
    make, path = Counted(), tmp_path / "answer"
    path.write_text("4", encoding="utf-8")
    assert once(path, read, make, str) == 4
    path.write_text("damaged", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged"):
        once(path, read, make, str)
    assert make.made == 0
    assert once(path, unless_damaged(read), make, str) == 42


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="answer"):
        once(tmp_path / "file" / "answer", read, Counted(), str)
