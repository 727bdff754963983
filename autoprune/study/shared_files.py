"""What one machine has prepared, for others that do not see its folder: :class:`SharedFiles`.

The files lie in an artifact store under a name made from their content, and the study's facts say which: name, SHA-256
and size of each. Nothing that has another sum is taken for one of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autoprune.core.atomic_write import write_bytes
from autoprune.core.json_values import DAMAGE
from autoprune.errors import StudyError, StudyMismatchError
from autoprune.study.artifact_store import ArtifactStore
from autoprune.study.folder import StudyFolder

FACT = "artifact:"  # followed by the file's name in the study's folder
SPEC = "resolved.toml"
NETWORKS = ("dense.safetensors", "rewind.safetensors", "sparse.safetensors")
_MEASURED = (
    *("scores.safetensors", "dense.json", "threshold.json", "sensitivity.json", "latency.json"),
    *("peak_rate.json", "screened.jsonl"),
)
_TEACHER = re.compile(r"teacher/teacher-[\w-]+\.safetensors")


@dataclass(frozen=True)
class SharedFile:
    """A file in the store.

    Attributes:
        id: its name there.
        sha256: of its content, in hexadecimal.
        bytes: of its content.
    """

    id: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class SharedFiles:
    """The files that the workers of one study share through an artifact store.

    Attributes:
        store: where they are left.
        folder: the study's, on this machine.
        name: of the study.
    """

    store: ArtifactStore
    folder: StudyFolder
    name: str

    def fetch(self, facts: Mapping[str, Any]) -> int:
        """Bring what is in the store into the folder; return how many bytes came.

        The spec comes last: only then does the folder hold a study that has begun.

        Args:
            facts: of the study.

        Raises:
            StudyError: if a file is missing, cannot be read or written, or is not what was left there.
        """
        known = shared_in(facts)
        wanted = [name for name, file in known.items() if self._sum(name) != file.sha256]
        return sum(self._fetch_one(name, known[name]) for name in sorted(wanted, key=lambda name: name == SPEC))

    def fetch_teacher(self, facts: Mapping[str, Any]) -> None:
        """Bring the teacher's answers that this machine has not computed.

        Raises:
            StudyError: as :meth:`fetch`.
        """
        for name, file in shared_in(facts).items():
            if _TEACHER.fullmatch(name) and not (self.folder.path / name).exists():
                self._fetch_one(name, file)

    def send(self, facts: Mapping[str, Any], remember: Callable[[str, Any], None], *, replaces: bool = False) -> int:
        """Leave in the store what is not there; return how many bytes went.

        Args:
            facts: of the study.
            remember: called with the key and the value of a fact for each file that lies there whole.
            replaces: whether files of other content are replaced, as by who takes over a preparation.

        Raises:
            StudyError: if a file cannot be read or written.
        """
        known, sent = shared_in(facts), 0
        for name in self._present():
            if name in known and (not replaces or self._sum(name) == known[name].sha256):
                continue
            content = self._read(name)
            total = hashlib.sha256(content).hexdigest()
            file = SharedFile(f"{self.name}-{name.replace('/', '-')}-{total[:16]}", total, len(content))
            self.store.write(file.id, content)
            remember(f"{FACT}{name}", asdict(file))
            sent += len(content)
        return sent

    def check_same_networks(self, facts: Mapping[str, Any]) -> None:
        """Raise if the folder's dense network is another one than that which the study's trials were cut from.

        Raises:
            StudyMismatchError: naming the file.
        """
        known = shared_in(facts)
        for name in NETWORKS:
            if name in known and self._sum(name) not in ("", known[name].sha256):
                raise StudyMismatchError(
                    f"{str(self.folder.path / name)!r} is another network than the one in {self.store.place!r} that "
                    f"the study's trials were made with; remove this folder and run the same command again, which "
                    f"fetches that one"
                )

    def _fetch_one(self, name: str, file: SharedFile) -> int:
        content = self.store.read(file.id)
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise StudyError(
                f"{file.id!r} in the artifact store {self.store.place!r} is damaged: it has {len(content)} bytes and "
                f"another SHA-256 than the {file.bytes} bytes that were left there. Copy the study's folder from a "
                f"machine that has it to here, and run the same command again"
            )
        write_bytes(self.folder.path / name, content)
        return len(content)

    def _present(self) -> list[str]:
        names = [name for name in (*NETWORKS, *_MEASURED, SPEC) if (self.folder.path / name).exists()]
        answers = sorted(f"teacher/{path.name}" for path in self.folder.teacher.glob("teacher-*.safetensors"))
        return [*names, *(name for name in answers if _TEACHER.fullmatch(name))]

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder.path / name).read_bytes()
        except OSError as error:
            raise StudyError(f"{str(self.folder.path / name)!r} cannot be read: {error.strerror or error}") from error

    def _sum(self, name: str) -> str:
        """Return the SHA-256 of a file in the folder; empty if there is none."""
        return hashlib.sha256(self._read(name)).hexdigest() if (self.folder.path / name).exists() else ""


def shared_in(facts: Mapping[str, Any]) -> dict[str, SharedFile]:
    """Return file → where it lies, from a study's facts; a name that is none of ours is passed over.

    Raises:
        StudyError: if one is damaged.

    >>> shared_in({"artifact:../../evil": {}, "artifact:dense.json": {"id": "a", "sha256": "b", "bytes": 3}})
    {'dense.json': SharedFile(id='a', sha256='b', bytes=3)}
    """
    found = {}
    for key, value in facts.items():
        name = key.removeprefix(FACT)
        if key != name and _is_ours(name):
            try:
                found[name] = SharedFile(str(value["id"]), str(value["sha256"]), int(value["bytes"]))
            except DAMAGE as error:
                raise StudyError(
                    f"what the study says about its file {name!r} in the artifact store is damaged "
                    f"({type(error).__name__}: {error}); restore the storage from a copy"
                ) from error
    return found


def remove_shared(store: ArtifactStore, files: Collection[SharedFile]) -> int:
    """Remove from a store what a study's machines have left there; return how many bytes that was.

    Raises:
        StudyError: if a file cannot be removed.
    """
    for file in files:
        store.remove(file.id)
    return sum(file.bytes for file in files)


def megabytes(count: int) -> str:
    """Return bytes as a person reads them.

    >>> megabytes(1_234_000)
    '1.23 MB'
    """
    return f"{count / 1e6:.2f} MB"


def _is_ours(name: str) -> bool:
    return name in (*NETWORKS, *_MEASURED, SPEC) or bool(_TEACHER.fullmatch(name))
