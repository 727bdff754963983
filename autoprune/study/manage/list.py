"""The studies under a folder, each on one line: trials, the best within the last budget, size, what is going on."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from autoprune.analysis.pareto import best_within
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import METRICS
from autoprune.core.trial import Trial, completed_measurement
from autoprune.errors import AutopruneError
from autoprune.study.disk_usage import size_of
from autoprune.study.folder import StudyFolder
from autoprune.study.lock import is_searched
from autoprune.study.manage.file_inventory import DATABASE, SPEC
from autoprune.study.view import StudyView, open_view


@dataclass(frozen=True)
class Listed:
    """One stored study, as a line of a list.

    Attributes:
        folder: where it lies.
        size_bytes: of all its files.
        active: when its trials were last written to.
        searching: whether a process is searching it now.
        view: what is stored, or ``None`` if it cannot be read.
        fault: why it cannot be read, or an empty string.
    """

    folder: StudyFolder
    size_bytes: int
    active: datetime.datetime
    searching: bool
    view: StudyView | None
    fault: str = ""

    @property
    def name(self) -> str:
        """Return the folder's name, by which commands know the study."""
        return self.folder.path.name

    @property
    def best(self) -> Trial | None:
        """Return the best trial within the last run's budget."""
        return best_within(self.view.trials, self.view.budget) if self.view else None

    def to_json(self) -> JsonObject:
        """Return plain types for JSON; a study that cannot be read says why under ``error``."""
        row: JsonObject = {
            "name": self.name,
            "folder": str(self.folder.path),
            "size_mb": round(self.size_bytes / 1e6, 3),
            "last_activity": self.active.isoformat(timespec="seconds"),
            "searching": self.searching,
        }
        if self.view is None:
            return {**row, "error": self.fault}
        best = self.best
        measured = completed_measurement(best) if best else None
        return {
            **row,
            "finished": len(self.view.trials),
            "trials": self.view.spec.trials,
            "running": self.view.running,
            "budget": self.view.budget.to_json(),
            "best_trial": best.number if best else None,
            "best_accuracy": measured["accuracy"] if measured else None,
            "best": best_text(measured) if measured else "",
        }


def best_text(measured: Measurement) -> str:
    """Return what a network of a list is worth, in a few words.

    >>> best_text(Measurement({"accuracy": 0.9889, "mflops": 39.3}))
    '98.89 % at 39.30 MFLOPs'
    """
    return f"{METRICS['accuracy'].show(measured['accuracy'])} at {measured['mflops']:.2f} MFLOPs"


def list_studies(root: Path, storage: str | None = None) -> list[Listed]:
    """Return the stored studies under a folder, by name; one that cannot be read does not hide the others.

    Args:
        root: the folder that holds the studies.
        storage: Optuna storage URL for those that have no trials in their own folder.
    """
    found = sorted(path.parent for path in root.glob(f"*/{SPEC[0]}"))
    return [_listed(StudyFolder(path), storage) for path in found if not path.name.startswith(".")]  # being built


def _listed(folder: StudyFolder, storage: str | None) -> Listed:
    size, active = 0, datetime.datetime.fromtimestamp(0, datetime.UTC)
    try:
        size, active = size_of(folder).total, last_activity(folder)
        searching = is_searched(folder.lock)
        view = open_view(folder.path, None if folder.database.exists() else storage)
        listed = Listed(folder, size, active, searching, view)
        listed.to_json()  # what is shown is made of what is stored, whatever that is
    except AutopruneError as error:
        where = " (or its trials are in another storage: give --storage)" if not folder.database.exists() else ""
        return Listed(folder, size, active, False, None, f"{error}{where}")
    except Exception as error:  # one study must not hide the others, whatever has become of it
        return Listed(folder, size, active, False, None, f"it cannot be read ({type(error).__name__}: {error})")
    return listed


def last_activity(folder: StudyFolder) -> datetime.datetime:
    """Return when a study's trials were last written to, or its spec if they lie elsewhere."""
    files = [folder.path / name for name in (*DATABASE[:2], SPEC[0], folder.log.name)]
    latest = max((file.stat().st_mtime for file in files if file.exists()), default=0.0)
    return datetime.datetime.fromtimestamp(latest, datetime.UTC)
