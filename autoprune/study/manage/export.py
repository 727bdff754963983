"""Packing a stored study into one portable file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from autoprune.core.leftovers import remove_leftovers, scratch_folder, temporary_neighbour
from autoprune.errors import StudyError, UsageError
from autoprune.study.manage.archive_file import ENDINGS, FACTS, RESOLVED, TRIALS, write_archive
from autoprune.study.manage.file_inventory import TRIAL_WEIGHTS, carried_files, stored_folder
from autoprune.study.manage.manifest import Manifest
from autoprune.study.manage.portable_paths import Wording, outside_values, portable_wording, without_paths
from autoprune.study.portable_trials import reading_portable
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import read_resolved, write_resolved
from autoprune.study.storage_url import sqlite_url


@dataclass(frozen=True)
class Exported:
    """An archive that was written.

    Attributes:
        file: the archive.
        size_bytes: its size.
        unpacked: bytes that it unpacks to.
        trials: how many records of trials it holds.
        needs: dotted key of the spec → file or module that the study needs and the archive does not hold.
    """

    file: Path
    size_bytes: int
    unpacked: int
    trials: int
    needs: Mapping[str, str]


def export_study(path: Path, target: Path, storage: str | None = None, *, force: bool = False) -> Exported:
    """Write a study as one file that another machine goes on with; safe beside a running search.

    It holds the trials, what is known of the study as a whole, its spec, weights and scores. It holds no code, no data,
    no picked networks, no pickle and no absolute path: those of the spec lose their folders, and so do those in the
    messages of failed trials. The same study gives the same bytes.

    Args:
        path: the study's folder.
        target: the archive, ``.tar.gz``, ``.tgz`` or ``.zip``.
        storage: Optuna storage URL if the trials are not in the folder.
        force: whether a file that is there already is replaced.

    Raises:
        UsageError: if the target has another ending or exists already.
        StudyError: if the study is damaged, or the archive cannot be written; no half of one is left then.
    """
    folder = stored_folder(path)
    _check_target(target, force)
    spec = read_resolved(folder.resolved)
    url, wording = _url(folder.database, storage), portable_wording(spec)
    hidden = temporary_neighbour(target)
    try:
        with scratch_folder("export") as scratch:
            about = _stage(path, scratch, spec, url, wording)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target.parent)
            about = write_archive(scratch, about, hidden)
            hidden.replace(target)
    except OSError as error:
        raise StudyError(
            f"cannot write {str(target)!r}: {error.strerror or error}; free the disk, or choose another place"
        ) from error
    finally:
        hidden.unlink(missing_ok=True)
    return Exported(target, target.stat().st_size, about.unpacked, about.trials, about.needs)


def _about(spec: StudySpec, facts: Mapping[str, Any], trials: int, wording: Wording) -> Manifest:
    """Return what the archive says of itself, but for its files."""
    return Manifest(
        study=spec.name,
        autoprune=version("autoprune"),
        trials=trials,
        needs={key: wording.apply(value) for key, value in outside_values(spec).items()},
        measured_on=_measured_on(facts),
    )


def _check_target(target: Path, force: bool) -> None:
    if not target.name.endswith(ENDINGS):
        raise UsageError(f"{str(target)!r} ends in none of {', '.join(ENDINGS)}; the ending says how it is packed")
    if target.exists() and not force:
        raise UsageError(f"{str(target)!r} exists already; give another name, or --force to replace it")


def _url(database: Path, storage: str | None) -> str:
    if not database.exists() and storage is None:
        raise StudyError(
            f"there are no trials in {str(database.parent)!r}; if they are in another storage, give it with --storage"
        )
    return sqlite_url(database) if database.exists() or storage is None else storage


def _stage(path: Path, staged: Path, spec: StudySpec, url: str, wording: Wording) -> Manifest:
    """Put everything that travels into a folder, without the paths of this machine; return what it says of itself."""
    with (
        reading_portable(url, spec.name, spec.objectives) as (facts, trials),
        (staged / TRIALS).open("w", encoding="utf-8") as lines,
    ):
        count = sum(_write_line(lines, wording.apply_to_json(_without_paths(trial))) for trial in trials)
    (staged / FACTS).write_text(json.dumps(wording.apply_to_json(dict(facts)), indent=1), encoding="utf-8")
    _stage_files(path, staged, wording)
    values = spec.model_dump(mode="json")
    values["data"]["root"] = ""
    write_resolved(StudySpec.model_validate(wording.apply_to_json(values)), staged / RESOLVED)
    return _about(spec, facts, count, wording)


def _write_line(lines: TextIO, trial: object) -> int:
    """Write a trial; return 1, to be added up."""
    lines.write(f"{json.dumps(trial)}\n")
    return 1


def _stage_files(path: Path, staged: Path, wording: Wording) -> None:
    """Put the files that travel beside the trials into a folder."""
    for name in carried_files(path):
        (staged / name).parent.mkdir(exist_ok=True)
        try:
            content = (path / name).read_bytes()
        except FileNotFoundError:
            if name.parts[0] == TRIAL_WEIGHTS:  # weights of trials go as the front moves on
                continue
            raise
        if name.suffix == ".safetensors":
            (staged / name).write_bytes(wording.apply_to_tensors(content))
        else:
            (staged / name).write_text(wording.apply(content.decode("utf-8")), encoding="utf-8")


def _without_paths(trial: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a trial whose message and traceback, if it failed, name no folders."""
    record = trial["user_attrs"].get("outcome")
    if not record or record["outcome"]["kind"] != "failed":
        return trial
    failed = record["outcome"]
    outcome = {**failed, **{key: without_paths(failed[key]) for key in ("message", "trace")}}
    return {**trial, "user_attrs": {**trial["user_attrs"], "outcome": {**record, "outcome": outcome}}}


def _measured_on(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return where the last session measured, as it described its runtime."""
    sessions = [key for key in facts if key.startswith("session:")]
    return dict(facts[f"session:{len(sessions) - 1}"].get("runtime", {})) if sessions else {}
