"""The values of ``study.toml`` that a study's last run accepted.

They tell later edits, which count, from values that options have overruled meanwhile, which do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from autoprune.core.atomic_write import write_text
from autoprune.core.json_values import DAMAGE, parse_json
from autoprune.errors import StudyError
from autoprune.study.folder import StudyFolder


def write_accepted(folder: StudyFolder, values: Mapping[str, object]) -> None:
    """Store the values, in place of those of an earlier run.

    Raises:
        StudyError: if they cannot be written.
    """
    write_text(folder.accepted_toml, json.dumps(values))
    folder.old_accepted_toml.unlink(missing_ok=True)


def read_accepted(folder: StudyFolder) -> dict[str, object] | None:
    """Return the values; ``None`` if no run has stored any.

    Raises:
        StudyError: if the file is damaged.
    """
    path = folder.accepted_toml if folder.accepted_toml.exists() else folder.old_accepted_toml
    try:
        return dict(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, *DAMAGE) as error:
        raise StudyError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); delete it, and repeat the options the study "
            f"was begun with"
        ) from error
