"""How large a study is on disk, and what takes the space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from autoprune.study.folder import StudyFolder

WEIGHTS, DENSE, TEACHER, TRIALS, PICKED, OTHER = (
    *("weights of trials", "dense network", "teacher's answers", "trials", "picked networks", "other"),
)
_MB = 1e6


@dataclass(frozen=True)
class StudySize:
    """How much each part of a study takes.

    Attributes:
        parts: part → bytes, the largest first; empty parts are left out.
        networks: of how many trials the weights are stored.
    """

    parts: Mapping[str, int]
    networks: int

    @property
    def total(self) -> int:
        """Return the whole in bytes."""
        return sum(self.parts.values())

    @property
    def megabytes(self) -> float:
        """Return the whole in MB of a million bytes."""
        return self.total / _MB

    def describe(self) -> str:
        """Return the whole and its parts in words.

        >>> StudySize({"dense network": 3_500_000, "weights of trials": 1_200_000, "trials": 4_000}, 1).describe()
        '4.70 MB: dense network 3.50, weights of 1 trial 1.20, trials 0.00'
        """
        named = {WEIGHTS: f"weights of {self.networks} trial{'s' if self.networks != 1 else ''}"}
        parts = ", ".join(f"{named.get(part, part)} {size / _MB:.2f}" for part, size in self.parts.items())
        return f"{self.megabytes:.2f} MB" + (f": {parts}" if parts else "")

    def to_json(self) -> dict[str, object]:
        """Return plain types: MB in all, bytes by part, and the number of stored networks."""
        return {"size_mb": round(self.megabytes, 3), "bytes": dict(self.parts), "networks": self.networks}


def size_of(folder: StudyFolder) -> StudySize:
    """Return the size of a study's folder by part; safe beside a running search, whose files come and go."""
    found: dict[str, int] = {}
    networks = 0
    for path in folder.path.rglob("*"):
        try:
            size = path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # removed since it was listed
        part = _part_of(path, folder)
        networks += part == WEIGHTS and path.suffix == ".safetensors"
        found[part] = found.get(part, 0) + size
    parts = sorted(((part, size) for part, size in found.items() if size), key=lambda each: -each[1])
    return StudySize(dict(parts), networks)


def _part_of(path: Path, folder: StudyFolder) -> str:
    inside = {folder.weights: WEIGHTS, folder.teacher: TEACHER, folder.picked: PICKED}
    for parent in path.parents:
        if parent in inside:
            return inside[parent]
    if path in (folder.dense_weights, folder.rewind_weights, folder.sparse_weights):
        return DENSE
    return TRIALS if path.name.startswith(folder.database.name) else OTHER
