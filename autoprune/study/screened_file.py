"""``screened.jsonl``: what a study's screening has seen, a line for each round of looks, added once all are there.

The first line holds the settings. A kill loses the round that was under way and no other: what follows the last end
of a line is not read, and is cut off before the next line is added.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from autoprune.core.atomic_write import write_text
from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.core.screened import Screening
from autoprune.errors import StudyError


def read_screening(path: Path) -> Screening:
    """Return what was seen so far; nothing if there is no file.

    Raises:
        StudyError: if a whole line is damaged.
    """
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Screening()
    except OSError as error:
        raise StudyError(f"{str(path)!r} cannot be read: {error.strerror or error}; check its permissions") from error
    try:
        whole = text[: text.rfind(b"\n") + 1].decode("utf-8").splitlines()
        return Screening.from_records([parse_json(line) for line in whole]) if whole else Screening()
    except DAMAGE as error:
        raise StudyError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); expected a round of looks on every line: "
            "restore it from a copy, or remove it, and the search looks at these networks again"
        ) from error


def begin_screening(path: Path, settings: JsonObject) -> None:
    """Write a file that holds the settings alone, in the place of any other.

    Raises:
        StudyError: if it cannot be written.
    """
    write_text(path, json.dumps({"settings": settings}) + "\n")


def add_record(path: Path, record: JsonObject) -> None:
    """Add a line, safe on disk when this returns.

    Raises:
        StudyError: if it cannot be written.
    """
    line = (json.dumps(record) + "\n").encode()
    try:
        with path.open("rb+") as file:
            file.seek(_end_of_lines(path))
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StudyError(
            f"cannot write {str(path)!r}: {error.strerror or error}; make the folder writable or free space, and the "
            "same command goes on"
        ) from error


def _end_of_lines(path: Path) -> int:
    """Return how many bytes whole lines take."""
    text = path.read_bytes()
    return text.rfind(b"\n") + 1
