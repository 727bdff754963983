"""What a picked network answers: inputs of any structure and the tensors of its answer, as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from autoprune.core.atomic_write import write_bytes
from autoprune.core.json_values import parse_json
from autoprune.models.calling.answers import are_of_one_shape, difference
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.structure import InputStructure


@dataclass(frozen=True)
class Reference:
    """The answers that a folder's files have to give.

    Attributes:
        inputs: one batch, of any structure.
        outputs: tensors that the finished network answered with.
        counted: inputs that costs were counted on.
        threads: CPU threads that it answered with; with another number the last bits may differ.
    """

    inputs: Inputs
    outputs: Sequence[Tensor]
    counted: Inputs
    threads: int = field(default_factory=torch.get_num_threads)

    def write(self, path: Path) -> None:
        """Store it: the tensors one by one, and the structures of the inputs among the metadata."""
        rows = {"inputs": self.inputs.tensors, "counted": self.counted.tensors, "outputs": self.outputs}
        tensors = {
            f"{row}.{place}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for row, each in rows.items()
            for place, tensor in enumerate(each)
        }
        both = {"inputs": self.inputs, "counted": self.counted}
        structures = {row: json.dumps(InputStructure.of(one).to_json()) for row, one in both.items()}
        write_bytes(path, save(tensors, metadata={"threads": str(self.threads), **structures}))

    @property
    def strangers(self) -> list[str]:
        """Return the kinds of objects among the inputs that cannot be stored, as only the user can make them."""
        return [*InputStructure.of(self.inputs).strangers]

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Return what :meth:`write` stored.

        Raises:
            ModelError: if objects of the user's own are among the inputs.
        """
        with safe_open(path, "pt") as stored:
            told = stored.metadata()
            names = sorted(stored.keys(), key=lambda name: int(name.rpartition(".")[2]))
            rows = {
                row: [stored.get_tensor(name).clone() for name in names if name.startswith(f"{row}.")]
                for row in ("inputs", "counted", "outputs")
            }
        inputs, counted = (
            InputStructure.from_json(parse_json(told[row])).filled(rows[row]) for row in ("inputs", "counted")
        )
        return cls(inputs, rows["outputs"], counted, int(told["threads"]))

    @property
    def described(self) -> str:
        """Return in words on what the network answered."""
        return f"{self.inputs.size} examples" if self.inputs.size else "one batch"

    def first(self, count: int) -> Reference:
        """Return what it answered to the first examples; all of it where answers do not belong to examples."""
        size = self.inputs.size
        if size is None or any(not tensor.dim() or len(tensor) != size for tensor in self.outputs):
            return self
        outputs = [tensor[:count] for tensor in self.outputs]
        return Reference(self.inputs.first(count), outputs, self.counted, self.threads)

    def difference(self, found: Sequence[Tensor]) -> float:
        """Return the largest difference of other answers; infinite if they are not of the same shapes, or NaN."""
        if not are_of_one_shape(found, self.outputs):
            return float("inf")
        apart = [difference(one, other) for one, other in zip(found, self.outputs, strict=True)]
        return max(each if each == each else float("inf") for each in apart)
