"""What a run adds to a study's folder, by name: what may be removed, what is copied, what an archive carries.

A folder may also hold what its user put there, ``study.toml`` first of all. What no pattern here names is the user's.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from autoprune.errors import StudyError, UsageError
from autoprune.study.find_study import STUDY_FILE
from autoprune.study.folder import StudyFolder

TRIAL_WEIGHTS = "weights"  # the folder of trials' own weights, which come and go as the front moves on
# what the trials rest on, and what makes a study go on elsewhere without measuring again
CARRIED = (
    *("dense.safetensors", "rewind.safetensors", "sparse.safetensors", "scores.safetensors", "moments.safetensors"),
    *("dense.json", "threshold.json", "sensitivity.json", "latency.json", "peak_rate.json", "screened.jsonl"),
    f"{TRIAL_WEIGHTS}/[0-9]*.safetensors",  # by the number of the trial
)
DATABASE = ("study.db", "study.db-wal", "study.db-shm", "study.db-journal")
# recipe.json is an older name of accepted_toml.json
SPEC = ("resolved.toml", "accepted_toml.json", "recipe.json", "imported.json")
LOCK = "study.lock"
# made anew from the rest, or for people
DERIVED = (
    *("front.csv", "front.json", "front.png", "front.svg", "report.html", "sensitivity.png"),
    *("search.log", "search.log.[0-9]", "teacher", "teacher/*", "picked", "picked/*", "tensorboard", "tensorboard/*"),
    *("mlflow.json", "mlflow.db", "mlflow.db-*", "mlflow-artifacts", "mlflow-artifacts/*"),
    *("wandb.json", "wandb", "wandb/*"),
    *(
        "asking.lock",
        "preparing.lock",
        "prepared.json",
        "workers.json",
        "template.onnx",
        "logging.lock",
        "timing.lock",
        "quantising.lock",
        "workers",
        "workers/*",
        "crashes",
        "crashes/*",
        "divided",
        "divided/*",
        "divided-int8",
        "divided-int8/*",
    ),
    *(TRIAL_WEIGHTS, f"{TRIAL_WEIGHTS}/.[0-9]*.tmp", ".writable", ".*.tmp"),
)
_MADE = (*CARRIED, *DATABASE, *SPEC, *DERIVED)


def is_made(path: Path) -> bool:
    """Return whether a run made what has this path in a study's folder; the lock, which outlives the rest, is not.

    >>> is_made(Path("study.db")), is_made(Path("picked/3/card.md")), is_made(Path("study.toml"))
    (True, True, False)
    """
    return any(fnmatchcase(path.as_posix(), pattern) for pattern in _MADE)


def holds_study(folder: Path) -> bool:
    """Return whether a folder holds what a search made, not only a ``study.toml``."""
    return any((folder / name).exists() for name in (*SPEC, *DATABASE, *CARRIED[:-1]))


def carried_files(folder: Path) -> list[Path]:
    """Return the carried files that a folder holds, relative to it, in order."""
    return sorted(file.relative_to(folder) for pattern in CARRIED for file in folder.glob(pattern) if file.is_file())


def stored_folder(path: Path) -> StudyFolder:
    """Return a folder that holds a study.

    Raises:
        StudyError: if it holds none.
    """
    if not holds_study(path):
        only = f"; it holds only a {STUDY_FILE}" if (path / STUDY_FILE).exists() else ""
        raise StudyError(f"there is no stored study in {str(path)!r}{only}; `autoprune studies` lists those there are")
    return StudyFolder(path)


def check_free(folder: Path) -> None:
    """Check that a new folder can take this place.

    Raises:
        UsageError: if something is there already.
    """
    if folder.exists():
        raise UsageError(f"{str(folder)!r} exists already; give another name, or remove it first")
