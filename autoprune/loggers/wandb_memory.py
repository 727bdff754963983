"""Which W&B run is a study's, and how many of its trials are logged: ``wandb.json`` in the study's folder.

A run that is logged offline can be asked nothing, so what is logged is written here after each trial is on disk. It is
kept by place, which is a host, an entity and a project: what one place holds says nothing of another.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from autoprune.core.atomic_write import write_text
from autoprune.core.json_values import DAMAGE, parse_json


def _new_id() -> str:
    return secrets.token_hex(4)


@dataclass(frozen=True)
class WandbMemory:
    """What a study's folder remembers of its W&B run.

    Attributes:
        run: the run's id, the same in every place.
        following: place → number of the trial that is logged there next.
    """

    run: str = field(default_factory=_new_id)
    following: Mapping[str, int] = field(default_factory=dict)

    def logged(self, place: str, following: int) -> WandbMemory:
        """Return this with all trials below ``following`` logged in a place.

        >>> WandbMemory("a1").logged("api.wandb.ai", 3).following
        {'api.wandb.ai': 3}
        """
        return replace(self, following={**self.following, place: following})

    def write(self, path: Path) -> None:
        """Write this to a file, as a whole or not at all."""
        write_text(path, json.dumps({"run": self.run, "next": dict(self.following)}, indent=1))


def read_memory(path: Path, stored: int) -> WandbMemory:
    """Return what a file says.

    A new run is begun if there is no file, if it is damaged, or if it tells of trials that the study lacks, because the
    study was started again.

    Args:
        path: the file.
        stored: the number after that of the study's last trial.
    """
    try:
        record = parse_json(path.read_text(encoding="utf-8"))
        found = WandbMemory(str(record["run"]), {str(place): int(n) for place, n in record["next"].items()})
    except (OSError, *DAMAGE):
        return WandbMemory()
    return found if max(found.following.values(), default=0) <= stored else WandbMemory()
