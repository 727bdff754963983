"""Whether a study is still where a search opened it: files and records that others may delete, move or replace.

An open file outlives its name: without this check a search would go on for hours, writing where nobody looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoprune.errors import StudyError
from autoprune.study.storage_url import sqlite_path, without_password
from autoprune.study.trial_rows import TrialRows


class SamePlace:
    """What a search opened, to be compared with what is there now.

    Args:
        lock: the study's lock file, which this process holds.
        url: of the storage, which is open.
        study_id: of the study in that storage.
        name: of the study.
    """

    def __init__(self, lock: Path, url: str, study_id: int, name: str) -> None:
        database = sqlite_path(url)
        paths = [lock.absolute(), *([database.absolute()] if database else [])]
        self._files: Mapping[Path, tuple[int, int] | None] = {path: _identity(path) for path in paths}
        self._url, self._study_id, self._name = url, study_id, name

    def check(self, rows: TrialRows) -> None:
        """Raise if the study is no longer there.

        Args:
            rows: the study's trials in its storage.

        Raises:
            StudyError: naming what was deleted, moved or replaced.
            SQLAlchemyError: if the database cannot be read.
        """
        for path, known in self._files.items():
            found = _identity(path)
            if found != known:
                what = "is gone" if found is None else "is another file now"
                raise StudyError(
                    f"the study was deleted, moved or replaced while it was searched: {str(path)!r} {what}. The search "
                    f"ends here; what it stored before lies where the study was moved to, if it was. Put the study "
                    f"back and run the same command to go on, or run it to begin anew"
                )
        if rows.study_named(self._name) != self._study_id:
            raise StudyError(
                f"the study {self._name!r} was deleted, renamed or replaced in the storage "
                f"{without_password(self._url)!r} while it was searched. The search ends here; restore the study and "
                f"run the same command to go on, or run it to begin anew"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file stands at a path; ``None`` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
