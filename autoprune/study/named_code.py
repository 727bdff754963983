"""Code that a file names, ``net.py:build``, ``pkg.mod:build`` or a command, and whether it may be run.

What a user writes on a command line or in a ``study.toml`` is theirs and is run. What stands in a study that came as an
archive is not: its folder holds a mark, ``imported.json``, of the code that the archive named, and nothing of it is run
until the user has allowed it once. Built-in names, installed plug-ins and torchvision's networks are no code in this
sense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoprune.core.atomic_write import write_text
from autoprune.core.builtin_names import DATA, IMPORTANCES, LOGGERS, MODELS
from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.errors import StudyError, UntrustedCodeError
from autoprune.study.folder import StudyFolder
from autoprune.study.spec import StudySpec


def code_in(spec: StudySpec) -> dict[str, tuple[str, ...]]:
    """Return the code that a spec names: dotted key → one or several.

    Each is ``file.py:name`` or ``package.module:name``, or a command.

    >>> from autoprune.study.spec_sections import ModelSpec
    >>> code_in(StudySpec(model=ModelSpec(source="net.py:build"))), code_in(StudySpec())
    ({'model.source': ('net.py:build',)}, {})
    """
    named = {
        "model.source": (MODELS, (spec.model.source,)),
        "data.source": (DATA, (spec.data.source,)),
        "space.importances": (IMPORTANCES, spec.space.importances),
        "logging.loggers": (LOGGERS, spec.logging.loggers),
    }
    found = {key: tuple(filter(registry.is_code, names)) for key, (registry, names) in named.items()}
    loop = {"finetune": spec.loop.finetune, "evaluate": spec.loop.evaluate, "example": spec.loop.example}
    found |= {f"loop.{key}": (name,) for key, name in loop.items() if name}
    found |= {"latency.command": (spec.latency.command,)} if spec.latency.command else {}
    return {key: names for key, names in found.items() if names}


@dataclass(frozen=True)
class ImportMark:
    """What is known of a study that came as an archive.

    Attributes:
        archive: the file's name.
        code: dotted key → code that the archive's spec named, and that the user did not replace.
        trusted: whether the user has allowed it to be run.
    """

    archive: str
    code: Mapping[str, tuple[str, ...]]
    trusted: bool = False

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "archive": self.archive,
            "code": {key: list(names) for key, names in self.code.items()},
            "trusted": self.trusted,
        }

    def write(self, folder: StudyFolder) -> None:
        """Store the mark in a study's folder.

        Raises:
            StudyError: if it cannot be written.
        """
        write_text(folder.imported, json.dumps(self.to_json(), indent=1))


def read_mark(folder: StudyFolder) -> ImportMark | None:
    """Return the mark of a study; ``None`` if it did not come as an archive.

    Raises:
        StudyError: if it is damaged.
    """
    try:
        data = parse_json(folder.imported.read_text(encoding="utf-8"))
        code = {str(key): tuple(map(str, list(names))) for key, names in dict(data["code"]).items()}
        return ImportMark(str(data["archive"]), code, data["trusted"] is True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *DAMAGE) as error:
        raise StudyError(
            f"{str(folder.imported)!r}, which says what code an imported study may run, is damaged "
            f"({type(error).__name__}: {error}); import the study again"
        ) from error


def check_code_is_trusted(folder: StudyFolder, spec: StudySpec, *, trust_code: bool = False) -> None:
    """Raise if a spec names code that came with an archive and was never allowed; remember it if it is allowed now.

    Args:
        folder: the study's.
        spec: that is about to be run.
        trust_code: whether the user allows it.

    Raises:
        UntrustedCodeError: naming the code.
        StudyError: if the study's mark is damaged, or cannot be written.
    """
    mark = read_mark(folder)
    if mark is None or mark.trusted:
        return
    brought = {name for names in mark.code.values() for name in names}
    asked = {key: [name for name in names if name in brought] for key, names in code_in(spec).items()}
    shown = ", ".join(f"{name} ({key})" for key, names in asked.items() for name in names)
    if shown and not trust_code:
        raise UntrustedCodeError(
            f"the study in {str(folder.path)!r} was imported from {mark.archive!r}, which names code that would be "
            f"run: {shown}. Look at that code, and allow it once with --trust-code (in Python: trust_code=True)"
        )
    if shown:
        replace(mark, trusted=True).write(folder)
