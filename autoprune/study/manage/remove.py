"""Removing what searches made of a study; ``study.toml`` and other files of its user stay unless all is to go."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import StudyError, StudyLockedError
from autoprune.study.artifact_store import ArtifactStore
from autoprune.study.copy_trials import delete_study
from autoprune.study.disk_usage import size_of
from autoprune.study.folder import StudyFolder
from autoprune.study.lock import is_searched, take_lock
from autoprune.study.manage.file_inventory import DATABASE, LOCK, SPEC, is_made, stored_folder
from autoprune.study.shared_files import remove_shared, shared_in
from autoprune.study.spec_toml import read_resolved
from autoprune.study.storage import closing_storage, facts_in
from autoprune.study.storage_url import sqlite_path, sqlite_url


@dataclass(frozen=True)
class Removed:
    """A study that was removed.

    Attributes:
        folder: where the study lay.
        freed_bytes: what its files took.
        kept: what stays in the folder, relative to it: ``study.toml``, and whatever no search made.
        trials_stay: whether the trials were neither in the folder nor in the storage that was given, if one was.
        artifact_bytes: what was removed from the artifact store.
        artifacts_stay: how many files lie in an artifact store that was not given.
    """

    folder: Path
    freed_bytes: int
    kept: tuple[str, ...]
    trials_stay: bool = False
    artifact_bytes: int = 0
    artifacts_stay: int = 0


def what_stays(folder: Path) -> tuple[str, ...]:
    """Return the files in a study's folder that no search made, relative to it, in order."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())  # a link may lead nowhere
    files = [path.relative_to(folder) for path in found]
    return tuple(sorted(str(file) for file in files if not is_made(file) and str(file) != LOCK))


def remove_study(
    path: Path, storage: str | None = None, *, everything: bool = False, artifacts: str | None = None
) -> Removed:
    """Remove a stored study; safe against a search that would begin meanwhile.

    The spec goes first, so that what a kill leaves behind is no study any more, and the same call removes the rest.

    Args:
        path: the study's folder.
        storage: Optuna storage URL if its trials are not in the folder; they are deleted there too.
        everything: whether ``study.toml`` and files that no search made go as well, with the folder.
        artifacts: where machines have left files for each other; those of this study go first.

    Raises:
        StudyLockedError: if a process is searching it.
        StudyError: if there is no study, or a file cannot be removed.
        UsageError: if the artifact store is of no known kind.
    """
    folder = stored_folder(path)
    with removal_lock(folder):
        freed, left = _remove_artifacts(folder, storage, artifacts)
        is_elsewhere = not folder.database.exists() and folder.resolved.exists()
        stay = is_elsewhere and not (storage and delete_study(storage, read_resolved(folder.resolved).name))
        before, kept = size_of(folder).total, () if everything else what_stays(path)
        try:
            remove_made(path)
            if not kept:
                shutil.rmtree(path.resolve())  # the folder may lie elsewhere, behind a link
                if path.is_symlink():
                    path.unlink()
        except OSError as error:
            raise StudyError(
                f"{str(error.filename or path)!r} cannot be removed: {error.strerror or error}; free its permissions "
                f"and remove the study again"
            ) from error
        if kept:
            folder.lock.unlink(missing_ok=True)
    return Removed(path, before - size_of(folder).total, kept, stay, freed, left)


def _remove_artifacts(folder: StudyFolder, storage: str | None, place: str | None) -> tuple[int, int]:
    """Empty the artifact store of what is this study's; return the bytes removed, and how many files stay."""
    url = sqlite_url(folder.database) if folder.database.exists() else storage
    file = sqlite_path(url) if url else None
    if not url or not folder.resolved.exists() or (file is not None and not file.exists()):
        return 0, 0  # to open a missing file would make it
    try:
        with closing_storage(url, to_read=True) as stored:
            known = shared_in(facts_in(stored, read_resolved(folder.resolved).name) or {}).values()
    except StudyError:
        if place:
            raise  # nobody knows what is this study's
        return 0, 0  # a damaged study goes all the same
    return (remove_shared(ArtifactStore(place), known), 0) if place else (0, len(known))


def check_not_searched(folder: StudyFolder) -> None:
    """Check that nobody searches a study now.

    Raises:
        StudyLockedError: if a process does.
    """
    if is_searched(folder.lock):
        raise _searched(folder)


def _searched(folder: StudyFolder) -> StudyLockedError:
    return StudyLockedError(
        f"a process is searching the study in {str(folder.path)!r}; stop it, or wait for it to end, and then remove "
        f"or replace the study"
    )


@contextmanager
def removal_lock(folder: StudyFolder) -> Iterator[None]:
    """Hold a study's lock, so that no search can begin.

    Raises:
        StudyLockedError: if a process is searching the study.
    """
    try:
        lock = take_lock(folder.lock)
    except StudyLockedError as error:
        raise _searched(folder) from error
    try:
        yield
    finally:
        lock.release()


def remove_made(path: Path) -> None:
    """Remove from a folder what searches made, the spec first; the lock stays.

    Raises:
        OSError: if a file cannot be removed.
    """
    for name in (*SPEC, *DATABASE):
        (path / name).unlink(missing_ok=True)
    for file in sorted(path.rglob("*"), reverse=True):  # what lies in a folder before the folder
        relative = file.relative_to(path)
        if not is_made(relative):
            continue
        if file.is_dir() and not file.is_symlink():
            if not any(file.iterdir()):
                file.rmdir()
        else:
            file.unlink()
