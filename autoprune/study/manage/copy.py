"""Copying a stored study under another name, consistently even while it is being searched."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from autoprune.core.leftovers import is_alive, temporary_neighbour
from autoprune.errors import StudyError
from autoprune.study.accepted_toml import read_accepted, write_accepted
from autoprune.study.copy_trials import backup_sqlite, copy_study, delete_study, rename_in_sqlite
from autoprune.study.disk_usage import size_of
from autoprune.study.find_study import find_study
from autoprune.study.folder import StudyFolder
from autoprune.study.manage.file_inventory import TRIAL_WEIGHTS, carried_files, check_free, stored_folder
from autoprune.study.spec_toml import read_resolved, read_study_toml, write_resolved


def duplicate_study(path: Path, target: Path, name: str, storage: str | None = None) -> int:
    """Copy a study into a new folder under a new name; a search that runs meanwhile is not disturbed.

    Trials, facts, spec, ``study.toml``, weights and scores are copied: what a search goes on from. Pictures, caches,
    logs and picked networks are not. A trial that is running is asked again by a search of the copy. The folder
    appears whole or not at all.

    Args:
        path: the study's folder.
        target: the new folder; must not exist.
        name: what the copy is called in its storage.
        storage: Optuna storage URL if the trials are not in the folder; the copy's are put there too.

    Returns:
        the bytes of the new folder.

    Raises:
        UsageError: if the target exists, or the storage has a study of that name.
        StudyError: if the study is damaged, or the copy cannot be written.
    """
    folder = stored_folder(path)
    check_free(target)
    spec = read_resolved(folder.resolved)
    with building(target) as copy:
        _copy_trials(folder, copy, spec.name, name, storage)
        try:
            _copy_files(folder, copy)
            write_accepted(copy, _accepted(folder, target, name))
            write_resolved(spec.model_copy(update={"name": name}), copy.resolved)
            copy.path.rename(target)
        except BaseException:
            if not folder.database.exists() and storage is not None:
                delete_study(storage, name)
            raise
    return size_of(StudyFolder(target)).total


def _copy_trials(folder: StudyFolder, copy: StudyFolder, old: str, new: str, storage: str | None) -> None:
    """Copy what is stored of the trials, before any file: the files then hold all that the trials rest on."""
    if folder.database.exists():
        backup_sqlite(folder.database, copy.database)
        rename_in_sqlite(copy.database, old, new)
    elif storage is not None:
        copy_study(storage, old, storage, new)
    else:
        raise StudyError(
            f"there are no trials in {str(folder.path)!r}; if they are in another storage, give it with --storage"
        )


def _copy_files(folder: StudyFolder, copy: StudyFolder) -> None:
    beside = [path.relative_to(folder.path) for path in (folder.study_toml, folder.imported) if path.exists()]
    names = [*carried_files(folder.path), *beside]
    for name in names:
        source, goal = folder.path / name, copy.path / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, goal)
        except FileNotFoundError:
            if name.parts[0] != TRIAL_WEIGHTS:  # weights of trials go as the front moves on
                raise


def _accepted(folder: StudyFolder, target: Path, name: str) -> Mapping[str, object]:
    """Return the values of ``study.toml`` that count as accepted by the copy, so that none is taken for an edit."""
    accepted = read_accepted(folder) if folder.study_toml.exists() else None
    if accepted is None:
        return written_at(target)
    return {**accepted, "name": read_study_toml(folder.study_toml).get("name", name)}


def written_at(target: Path) -> Mapping[str, object]:
    """Return the values of the ``study.toml`` or recipe that answers to a study's folder; or else only its name."""
    return dict(find_study(str(target.absolute()), target.parent.absolute(), allow_new=True)[1])


@contextmanager
def building(target: Path) -> Iterator[StudyFolder]:
    """Give a hidden folder beside a target, to be filled and moved into place; it is gone at the end in any case.

    One that a killed process left there is removed first.

    Raises:
        StudyError: if the folder cannot be written.
    """
    hidden = temporary_neighbour(target, keep_ending=False)
    is_new = not target.parent.exists()
    try:
        for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            number = left.name.split(".")[-2]
            if number.isdecimal() and not is_alive(int(number)):
                shutil.rmtree(left, ignore_errors=True)
        hidden.mkdir(parents=True)
        yield StudyFolder(hidden)
    except OSError as error:
        raise StudyError(
            f"{str(target)!r} cannot be written: {error.strerror or error}; free the disk or its permissions"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # something is in it, as it should be
                target.parent.rmdir()
