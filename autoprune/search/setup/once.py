"""What is computed once per study: read from its folder if it is there, else made now and stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from autoprune.core.atomic_write import write_bytes, write_text
from autoprune.core.json_values import DAMAGE

T = TypeVar("T")


def once(path: Path, read: Callable[[Path], T | None], make: Callable[[], T], content: Callable[[T], bytes | str]) -> T:
    """Return what a file of the study's folder holds, or make it now and store it in one step.

    Args:
        path: the file.
        read: returns what the file holds, ``None`` if that does not serve any more and is to be made again; called
            only if there is such a file.
        make: makes it.
        content: returns what is written of it.

    Raises:
        StudyError: if the file cannot be written.
    """
    stored = read(path) if path.exists() else None
    if stored is not None:
        return stored
    made = make()
    written = content(made)
    if isinstance(written, str):
        write_text(path, written)
    else:
        write_bytes(path, written)
    return made


def unless_damaged(read: Callable[[Path], T | None]) -> Callable[[Path], T | None]:
    """Return a reader that returns ``None`` for a file that was cut short or holds something else."""

    def attempt(path: Path) -> T | None:
        try:
            return read(path)
        except (OSError, *DAMAGE):
            return None

    return attempt
