"""Write a file in one step: whoever reads it sees the old content or the new, never half of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from autoprune.core.leftovers import remove_leftovers, temporary_neighbour
from autoprune.errors import StudyError


def write_through(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file through a temporary neighbour that takes its place once it is safe on disk.

    Args:
        path: of the file.
        write: writes it to the open neighbour.

    Raises:
        StudyError: if the file cannot be written; what was there before is untouched.
    """
    temporary = temporary_neighbour(path, keep_ending=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StudyError(
            f"cannot write {str(path)!r}: {error.strerror or error}; make the folder writable, free space, "
            f"or choose another folder"
        ) from error
    finally:
        _discard(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes like :func:`write_through`.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_through(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, like :func:`write_through`.

    Raises:
        StudyError: if the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself is gone or is none
