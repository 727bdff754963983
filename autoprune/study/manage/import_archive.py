"""Unpacking the archive of a study into a folder that can be searched, reported and picked from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import SpecError, StudyError, UsageError
from autoprune.study.accepted_toml import write_accepted
from autoprune.study.copy_trials import backup_sqlite, delete_study, has_study, take_name
from autoprune.study.find_study import find_study
from autoprune.study.folder import StudyFolder
from autoprune.study.manage.archive_file import FACTS, RESOLVED, TRIALS, unpack_archive
from autoprune.study.manage.copy import building, written_at
from autoprune.study.manage.file_inventory import holds_study
from autoprune.study.manage.portable_paths import Wording, outside_values, relocated
from autoprune.study.manage.remove import removal_lock, remove_made
from autoprune.study.named_code import ImportMark, code_in
from autoprune.study.portable_trials import PortableStudy, check_portable, write_portable
from autoprune.study.spec import NAME_PATTERN, StudySpec
from autoprune.study.spec_toml import read_resolved, write_resolved
from autoprune.study.storage_url import sqlite_url

LARGEST = 2e9  # bytes that an archive may unpack to unless more are allowed


@dataclass(frozen=True)
class Imported:
    """A study that was unpacked, and what its next search needs.

    Attributes:
        folder: where the study lies now.
        trials: how many records of trials it has.
        needs: dotted key of the spec → file or module that it needs and the archive did not hold. The spec itself says
            so: it is what a search will run, whatever the archive says of itself.
        code: dotted key → code that the archive names, and that nobody here has named.
        unpacked: bytes that the archive unpacked to.
        measured_on: the device and versions that its latencies were measured with.
    """

    folder: Path
    trials: int
    needs: Mapping[str, str]
    code: Mapping[str, tuple[str, ...]]
    unpacked: int
    measured_on: Mapping[str, object]


def import_study(
    file: Path,
    root: Path,
    name: str | None = None,
    storage: str | None = None,
    *,
    force: bool = False,
    places: Mapping[str, str] | None = None,
    trust_code: bool = False,
    limit: float = LARGEST,
) -> Imported:
    """Unpack a study that :func:`export_study` wrote; it appears whole or not at all.

    Args:
        file: the archive. It is not trusted: nothing in it is run, and nothing is written but what a study holds.
        root: the folder that holds the studies.
        name: what the study is called here; ``None`` for the name it had.
        storage: Optuna storage URL for its trials; ``None`` for SQLite in its folder.
        force: whether a stored study of that name is replaced. A ``study.toml`` in its folder stays.
        places: dotted key → value for what lies elsewhere on this machine: ``model.source``, ``model.weights``,
            ``data.source``, ``data.root``.
        trust_code: whether searches and picks may run the code that the archive names. Otherwise that has to be allowed
            later, once.
        limit: most bytes that the archive may unpack to.

    Raises:
        UsageError: if the file is no archive of a study or unpacks to more than the limit, the name cannot be one, or a
            study is there already.
        StudyError: if the archive is damaged, incomplete or of a newer version, or the folder cannot be written.
        StudyLockedError: if a study that is to be replaced is being searched.
    """
    places = places or {}
    with ExitStack() as held:
        scratch = held.enter_context(building(root / "import"))
        unpacked = scratch.path / "unpacked"
        unpacked.mkdir()
        manifest = unpack_archive(file, unpacked, limit)
        target, called = _target(manifest.study if name is None else name, root)
        _take_place(target, called, storage, force, held)
        spec, wording = _spec(unpacked, called, places, file)
        study = _study(unpacked, wording, file, spec.objectives)
        _assemble(unpacked, spec, study, wording, written_at(target), storage is None)
        brought = {key: names for key, names in code_in(spec).items() if key not in places}
        if brought:
            ImportMark(file.name, brought, trust_code).write(StudyFolder(unpacked))
        _install(unpacked, target, spec, study, storage)
    needs = outside_values(spec)
    return Imported(target, len(study.trials), needs, brought, manifest.unpacked, manifest.measured_on)


def _take_place(target: Path, called: str, storage: str | None, force: bool, held: ExitStack) -> None:
    """Check that the study may be put there, and keep searches of one that it replaces from beginning."""
    if holds_study(target):
        if not force:
            raise UsageError(
                f"{str(target)!r} holds a study already; give another name with --as, or --force to replace it"
            )
        held.enter_context(removal_lock(StudyFolder(target)))
    if storage is not None and not force and has_study(storage, called):
        raise UsageError(f"the storage holds a study named {called!r} already; give --as another name, or --force")


def _target(name: str, root: Path) -> tuple[Path, str]:
    """Return the folder for a name, and what the study is called in its storage.

    Raises:
        UsageError: if the name, which may come from the archive, cannot be a study's.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise UsageError(
            f"a study cannot be called {name!r}; give a name with --as, of letters, digits, '.', '_' and '-', that "
            f"begins with none of '.' and '-'"
        )
    folder, values = find_study(name, root, allow_new=True)
    return folder, str(values["name"])


def _spec(unpacked: Path, name: str, places: Mapping[str, str], file: Path) -> tuple[StudySpec, Wording]:
    try:
        stored = read_resolved(unpacked / RESOLVED)
    except SpecError as error:
        faults = "; ".join(error.faults)
        raise StudyError(
            f"the spec in {str(file)!r} cannot be read: {faults}. It is damaged or of another version; update autoprune"
        ) from error
    return relocated(stored.model_copy(update={"name": name}), places)


def _study(unpacked: Path, wording: Wording, file: Path, objectives: Sequence[str]) -> PortableStudy:
    """Read the trials and the facts, and check that they are some.

    Raises:
        StudyError: if they are not.
    """
    try:
        facts = dict(parse_json((unpacked / FACTS).read_text(encoding="utf-8")))
        lines = (unpacked / TRIALS).read_text(encoding="utf-8").splitlines()
        trials = tuple(dict(parse_json(line)) for line in lines)
    except DAMAGE as error:
        raise StudyError(f"the trials in {str(file)!r} are damaged: {error}; export the study again") from error
    check_portable(trials, objectives)
    return PortableStudy(wording.apply_to_json(facts), trials)


def _assemble(
    unpacked: Path, spec: StudySpec, study: PortableStudy, wording: Wording, written: Mapping[str, object], own: bool
) -> None:
    """Turn what came into a study's folder."""
    for name in (FACTS, TRIALS, RESOLVED):
        (unpacked / name).unlink()
    for file in unpacked.rglob("*.safetensors"):
        content = file.read_bytes()
        if (changed := wording.apply_to_tensors(content)) != content:
            file.write_bytes(changed)
    folder = StudyFolder(unpacked)
    if own:
        growing = unpacked.parent / "trials.db"
        write_portable(study, sqlite_url(growing), spec.name, spec.objectives)
        backup_sqlite(growing, folder.database)  # one file, checked
    write_accepted(folder, written)
    write_resolved(spec, folder.resolved)


def _install(unpacked: Path, target: Path, spec: StudySpec, study: PortableStudy, storage: str | None) -> None:
    """Move a finished folder into its place; the spec last, since it makes a folder a study."""
    if storage is not None:
        growing = f"{spec.name} (being imported)"  # no study can be called so by a user
        delete_study(storage, growing)  # of an import that was killed
        try:
            write_portable(study, storage, growing, spec.objectives)
        except BaseException:
            delete_study(storage, growing)
            raise
        take_name(storage, growing, spec.name)
    if not target.exists():
        unpacked.rename(target)
        return
    if holds_study(target):  # which is to be replaced; otherwise what lies there, as picked networks may, stays
        remove_made(target)
    last = StudyFolder(unpacked).resolved
    for path in sorted((each for each in unpacked.rglob("*") if each.is_file()), key=lambda each: each == last):
        goal = target / path.relative_to(unpacked)
        goal.parent.mkdir(exist_ok=True)
        path.rename(goal)
