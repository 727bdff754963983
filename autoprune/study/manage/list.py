"""The studies under a folder, each on one line: trials, the best within the last budget, size, what is going on."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from autoprune.analysis.pareto import best_within
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.core.trial import completed_measurement
from autoprune.errors import AutopruneError, StudyError
from autoprune.study.disk_usage import size_of
from autoprune.study.folder import StudyFolder
from autoprune.study.lock import is_searched
from autoprune.study.manage.file_inventory import DATABASE, SPEC
from autoprune.study.manage.overview import Overview, overview
from autoprune.study.spec import StudySpec
from autoprune.study.spec_toml import read_spec


@dataclass(frozen=True)
class Listed:
    """One stored study, as a line of a list.

    Attributes:
        folder: where it lies.
        size_bytes: of all its files.
        active: when its trials were last written to.
        searching: whether a process is searching it now, here or on another machine.
        overview: what is stored, or ``None`` if it cannot be read.
        wanted: how many trials the study is to reach.
        fault: why it cannot be read, or an empty string.
        quality: what its networks are judged by.
    """

    folder: StudyFolder
    size_bytes: int
    active: datetime.datetime
    searching: bool
    overview: Overview | None
    wanted: int = 0
    fault: str = ""
    quality: Metric = ACCURACY

    @property
    def name(self) -> str:
        """Return the folder's name, by which commands know the study."""
        return self.folder.path.name

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; a study that cannot be read says why under ``error``."""
        row: JsonObject = {
            "name": self.name,
            "folder": str(self.folder.path),
            "size_mb": round(self.size_bytes / 1e6, 3),
            "last_activity": self.active.isoformat(timespec="seconds"),
            "searching": self.searching,
        }
        if self.overview is None:
            return {**row, "error": self.fault}
        best = self.overview.best
        return {
            **row,
            "finished": self.overview.finished,
            "trials": self.wanted,
            "running": self.overview.running,
            "budget": self.overview.facts.budget.to_json(),
            "best_trial": self.overview.best_number,
            "quality": self.quality.name,
            f"best_{self.quality.name}": best[self.quality.name] if best else None,
            "best": best_text(best, self.quality) if best else "",
        }


def best_text(measured: Measurement, quality: Metric) -> str:
    """Return what a network of a list is worth, in a few words; accuracy needs no name.

    >>> best_text(Measurement({"accuracy": 0.9889, "mflops": 39.3}), ACCURACY)
    '98.89 % at 39.30 MFLOPs'
    >>> best_text(Measurement({"rmse": 0.5, "mflops": 39.3}), Metric("rmse", "mm"))
    'rmse 0.5000 mm at 39.30 MFLOPs'
    """
    name = "" if quality == ACCURACY else f"{quality.name} "
    return f"{name}{quality.with_unit(measured[quality.name])} at {measured['mflops']:.2f} MFLOPs"


def list_studies(root: Path, storage: str | None = None) -> list[Listed]:
    """Return the stored studies under a folder, by name; one that cannot be read does not hide the others.

    Args:
        root: the folder that holds the studies.
        storage: Optuna storage URL for those that have no trials in their own folder.
    """
    try:
        found = sorted(path for path in root.iterdir() if _may_hold_study(path))
    except (FileNotFoundError, NotADirectoryError):
        found = []
    return [_listed(StudyFolder(path), storage) for path in found if not path.name.startswith(".")]  # being built


def _may_hold_study(path: Path) -> bool:
    try:
        return (path / SPEC[0]).exists()
    except OSError:  # it cannot be looked into, which the list says
        return True


def _listed(folder: StudyFolder, storage: str | None) -> Listed:
    size, active = 0, datetime.datetime.fromtimestamp(0, datetime.UTC)
    try:
        size = size_of(folder).total
        active = last_activity(folder)
        searching = is_searched(folder.lock)
        spec = read_spec(folder.resolved)
        found = _overview(folder, storage, spec)
        listed = Listed(folder, size, active, searching or found.is_leased, found, spec.trials, quality=spec.quality)
        listed.to_json()  # what is shown is made of what is stored, whatever that is
    except (AutopruneError, OSError) as error:
        is_elsewhere = isinstance(error, StudyError) and not folder.database.exists()
        where = " (or its trials are in another storage: give --storage)" if is_elsewhere else ""
        return Listed(folder, size, active, False, None, fault=f"{error}{where}")
    except Exception as error:  # one study must not hide the others, whatever has become of it
        fault = f"it cannot be read ({type(error).__name__}: {error})"
        return Listed(folder, size, active, False, None, fault=fault)
    return listed


def _overview(folder: StudyFolder, storage: str | None, spec: StudySpec) -> Overview:
    """Return what a list shows of a study, from an overview if one is enough.

    That does without the registry of metrics, so that two studies may give one name to different metrics.

    Raises:
        StudyError: if it cannot be read.
    """
    if folder.database.exists():
        found = overview(folder.database, spec.name, spec.quality)
        if found is not None:
            return found
    from autoprune.study.view import open_view  # loads Optuna, which takes longer than a list should

    view = open_view(folder.path, None if folder.database.exists() else storage)
    best = best_within(view.trials, view.budget, spec.quality, dense=view.facts.dense)
    measured = completed_measurement(best) if best else None
    number = best.number if best else None
    return Overview(len(view.trials), view.running, view.facts, number, measured, view.is_leased)


def last_activity(folder: StudyFolder) -> datetime.datetime:
    """Return when a study's trials were last written to, or its spec if they lie elsewhere."""
    files = [folder.path / name for name in (*DATABASE[:2], SPEC[0], folder.log.name)]
    latest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return datetime.datetime.fromtimestamp(latest, datetime.UTC)
