"""Distillation: the dense network's answers to the training stream, computed once for all trials.

All candidates of a study are fine-tuned on the same augmented stream, so that they differ by their policy alone
(common random numbers). The answers of a :class:`Teacher` are therefore the same for all of them too: they are
computed when first needed, stored as safetensors, and read by every later trial and session. For a task whose stream
is not worth storing they are computed batch by batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from autoprune.core.atomic_write import write_bytes
from autoprune.errors import NonFiniteError
from autoprune.tasks.task import Batch, DataTask
from autoprune.training.device.evaluation_mode import evaluating
from autoprune.training.device.runtime import Runtime

Targets = Callable[[int, Batch], Any]
"""(position of a batch in its epoch, the batch) → the teacher's output for it."""

_HALF_ABOVE = 64_000_000  # bytes of one epoch's float32 logits beyond which they are stored in half precision


class Teacher:
    """The dense network as a teacher: its answers to every training batch.

    The network is only read: it is placed on the runtime, and runs in evaluation mode without gradients.

    Args:
        network: the dense network.
        task: the data.
        runtime: where and how it runs.
        folder: where answers are stored; ``None`` keeps them in memory only.
    """

    def __init__(self, network: nn.Module, task: DataTask, runtime: Runtime, folder: str | Path | None = None) -> None:
        self._network, self._task, self._runtime = runtime.place(network), task, runtime
        self._folder = Path(folder) if folder is not None else None
        self._known: dict[tuple[int, int, int], Tensor] = {}
        self._who = ""

    def targets(self, epoch: int, seed: int, batch_size: int, steps: int | None = None) -> Targets:
        """Return the answers to one epoch of ``task.train_stream(batch_size, epoch, seed, runtime)``.

        Args:
            epoch: as given to the stream.
            seed: as given to the stream.
            batch_size: as given to the stream.
            steps: how many batches of the epoch are needed; ``None`` for all.

        Raises:
            NonFiniteError: if the dense network's outputs are NaN or infinite.
            StudyError: if the folder cannot be written.
        """
        if not self._task.replayable:
            return lambda position, batch: self._answer(batch)
        whole = self._task.steps_per_epoch(batch_size)
        rows = min(batch_size * min(steps or whole, whole), self._task.sizes["train"])
        rows -= rows % batch_size == 1 < batch_size  # the stream leaves a single last image out
        logits = self._rows(epoch, seed, batch_size, rows)

        def stored(position: int, batch: Batch) -> Tensor:
            return logits[position * batch_size : position * batch_size + self._task.count(batch)].float()

        return stored

    def _rows(self, epoch: int, seed: int, batch_size: int, rows: int) -> Tensor:
        """Return at least ``rows`` logits of an epoch: from memory, from the folder, or computed now."""
        key = (epoch, seed, batch_size)
        if len(self._known.get(key, ())) < rows:
            file = self._file(key)
            logits = _read(file) if file else None
            if logits is None or len(logits) < rows:
                logits = self._continued(logits, epoch, seed, batch_size, rows)
                if file:
                    write_bytes(file, save({"logits": logits.contiguous()}))
            self._known[key] = logits.to(self._runtime.device)
        return self._known[key]

    def _continued(self, known: Tensor | None, epoch: int, seed: int, batch_size: int, rows: int) -> Tensor:
        """Return so many logits of an epoch; those of whole batches that are known are not computed again."""
        whole = 0 if known is None else len(known) // batch_size
        stream = self._task.train_stream(batch_size, epoch, seed, self._runtime)
        answers = [self._answer(batch).cpu() for batch in islice(stream, whole, -(-rows // batch_size))]
        logits = torch.cat(answers if known is None else [known[: whole * batch_size].float(), *answers])
        if not bool(logits.isfinite().all()):
            raise NonFiniteError(
                "the dense network's outputs on training examples are NaN or infinite; check its weights, "
                "or train it again with a smaller learning rate"
            )
        return logits.half() if logits.numel() * 4 > _HALF_ABOVE else logits

    @torch.no_grad()
    def _answer(self, batch: Batch) -> Any:
        with evaluating(self._network):
            return self._runtime.answer(self._task.forward, self._network, batch)

    def _file(self, key: tuple[int, int, int]) -> Path | None:
        if self._folder is None:
            return None
        self._who = self._who or _fingerprint(self._network, self._task, self._runtime)
        epoch, seed, batch_size = key
        return self._folder / f"teacher-{self._who}-seed{seed}-batch{batch_size}-epoch{epoch}.safetensors"


def _fingerprint(network: nn.Module, task: DataTask, runtime: Runtime) -> str:
    """Return a short hash of all that the answers depend on: data, weights, and precision."""
    digest = hashlib.sha256(f"{task.identity()} {runtime.device} {runtime.precision}".encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read(file: Path) -> Tensor | None:
    try:
        return load_file(file)["logits"]
    except (OSError, SafetensorError, KeyError):  # not there, or cut short when the power failed: compute it again
        return None
