"""What killed processes leave behind: temporary files and folders that carry their number, gone with the next."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = re.compile(r"\..+\.(?P<process>\d+)\.tmp(\.\w+)?")


def temporary_neighbour(path: Path, *, keep_ending: bool = True) -> Path:
    """Return the hidden neighbour of a file or folder under which this process writes it.

    Args:
        path: of what is written.
        keep_ending: whether the file's own ending comes last, for writers that go by it.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix if keep_ending else ''}")


def remove_leftovers(folder: Path) -> None:
    """Remove from a folder what processes that are no more had begun to write there.

    What cannot be listed or removed stays.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found and not is_alive(int(found["process"])):
                _remove(path)


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Give a folder for temporary files that is gone afterwards; those of killed processes go first.

    Args:
        purpose: a word for its name.
    """
    prefix = f"autoprune-{purpose}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        process = left.name.removeprefix(prefix).partition("-")[0]
        if process.isdecimal() and not is_alive(int(process)):
            _remove(left)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-") as folder:
        yield Path(folder)


def is_alive(process: int) -> bool:
    """Return whether a process of this number may be alive."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
