"""What a format is that networks are exported to: one that writes files into a folder, and runs them.

ONNX, OpenVINO and ``.pt2`` are of this form, and so is what a plug-in brings as an entry point of the group
``autoprune.exports``. Every file is checked against PyTorch, so that a format has to say how its files are run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from torch import nn

Answer: TypeAlias = Callable[..., object]
"""Is called as the network is; the tensors of its answer come in the order of the network's."""

Facts: TypeAlias = Mapping[str, str | int]


def no_facts(folder: Path) -> Facts:
    """Return that there is nothing else to know of the files in a folder."""
    return {}


@dataclass(frozen=True)
class ExportFormat:
    """A format that networks are exported to; called, it exports.

    Attributes:
        export: (network in eval mode on the CPU, a batch of two examples as the network takes it, folder) → writes its
            files there. For any number of examples, where they can be told apart.
        open: (folder, CPU threads) → what answers as the network does.
        file: the one that is opened, by its name in the folder.
        runtime: the package that runs it.
        beside: further files, by name.
        facts: folder → what else a reader of the card wants to know; raises if a file is unsound.
    """

    export: Callable[[nn.Module, object, Path], object]
    open: Callable[[Path, int], Answer]
    file: str
    runtime: str
    beside: tuple[str, ...] = ()
    facts: Callable[[Path], Facts] = field(default=no_facts)

    def __call__(self, network: nn.Module, example: object, folder: Path) -> object:
        """Write the files of a network into a folder."""
        return self.export(network, example, folder)

    @property
    def files(self) -> tuple[str, ...]:
        """Return all names, the one that is opened first."""
        return (self.file, *self.beside)

    def size(self, folder: Path) -> int:
        """Return the bytes of all its files in a folder."""
        return sum((folder / name).stat().st_size for name in self.files)
