"""The manifest of an archive: what it holds, what it needs, and where its latencies were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autoprune.core.json_values import JsonObject

VERSION = 1


@dataclass(frozen=True)
class PackedFile:
    """One file of an archive.

    Attributes:
        bytes: its size.
        sha256: digest of its content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        study: the name of the study in it.
        autoprune: the version that wrote it.
        trials: how many records of trials it holds.
        needs: dotted key of the spec → file or module that the study needs and the archive does not hold.
        measured_on: the device and versions that its latencies were measured with.
        files: name → file.
    """

    study: str
    autoprune: str
    trials: int
    needs: Mapping[str, str]
    measured_on: Mapping[str, Any]
    files: Mapping[str, PackedFile] = field(default_factory=dict)

    @property
    def unpacked(self) -> int:
        """Return the bytes of all files, as the archive says."""
        return sum(max(0, file.bytes) for file in self.files.values())

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        about = {name: value for name, value in vars(self).items() if name != "files"}
        files = {name: asdict(file) for name, file in self.files.items()}
        return {**about, "format": VERSION, "files": files}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if something is missing or of another type.
        """
        files = dict(data["files"])
        return cls(
            study=str(data["study"]),
            autoprune=str(data.get("autoprune", "")),
            trials=int(data.get("trials", 0)),
            needs=dict(data.get("needs", {})),
            measured_on=dict(data.get("measured_on", {})),
            files={name: PackedFile(int(file["bytes"]), str(file["sha256"])) for name, file in files.items()},
        )
