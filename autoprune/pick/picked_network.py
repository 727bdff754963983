"""A picked network as a program gets it: :class:`PickedNetwork`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from autoprune.errors import UsageError
from autoprune.export.card import Card


@dataclass(frozen=True)
class PickedNetwork:
    """A network that was picked from a study, finished and checked.

    Attributes:
        model: pruned, in eval mode on the CPU, trainable.
        card: what is known of it: budget, costs, scores with their standard errors, versions.
        folder: where its files lie: weights, exports, policy, card.
    """

    model: nn.Module
    card: Card
    folder: Path

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Copy its files to a folder of their own, and return it.

        Args:
            folder: does not exist yet, or is empty.
            force: whether what lies in it is replaced.

        Raises:
            UsageError: if something lies there, and ``force`` is false.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            if not force:
                raise UsageError(f"{str(target)!r} is not empty; give another folder, or force=True to replace it")
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        shutil.copytree(self.folder, target, dirs_exist_ok=True)
        return target
