"""From a folder of WAV files to a task: :class:`AudioTask`; a network gets clips ``(N, 1, T)`` and names their class.

``sound_listing.py`` finds the files and deals them to splits, ``read_wav.py`` reads one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from autoprune.errors import DataError
from autoprune.tasks.classification import Classification, LabelledBatch
from autoprune.tasks.folder_listing import Listing
from autoprune.tasks.read_wav import read_wav
from autoprune.tasks.sound_listing import list_sounds
from autoprune.tasks.task import SEARCHED, SPLITS, Placement, check_split, stream_seed, subset

_IN_MEMORY = 1_500_000_000  # bytes of clips that are kept
_REPLAY_BYTES = 256_000_000  # a teacher's stored answers to one epoch
_SHIFT = 10  # a training clip is moved by up to a tenth of its length


class AudioTask(Classification):
    """Sounds that each belong to one class, brought to one rate and length.

    Training moves every clip in time by up to a tenth of its length. Clips that fit into memory are read at once, so
    that a damaged one is named before anything is trained; more of them are read while they are needed.

    Args:
        path: of the folder.
        sample_rate: samples per second that clips are brought to.
        seconds: length that clips are cut or padded to.

    Raises:
        DataError: if the folder holds no such data, or a file cannot be read.
    """

    licence = ""

    def __init__(self, path: str | Path, sample_rate: int, seconds: float) -> None:
        root = Path(path).expanduser()
        self._root, self._rate, self._length = root, sample_rate, round(sample_rate * seconds)
        if self._length < 1:
            raise DataError(f"{seconds} s at {sample_rate} samples per second are no sample; give data.seconds")
        self._listings: dict[str, Listing] = list_sounds(root)
        self.name = root.resolve().name
        self.class_names = self._listings["train"].class_names
        self.num_classes = len(self.class_names)
        self.input_shape = (1, self._length)
        self.sizes = {split: len(self._listings[split].files) if split in self._listings else 0 for split in SPLITS}
        self.replayable = 4 * self.sizes["train"] * self.num_classes <= _REPLAY_BYTES
        self.description = f"Sounds in {root}, brought to {seconds:g} s of {sample_rate} samples per second."
        self._clips: dict[str, Tensor] = {}
        if self.sizes["train"] < 2:
            raise DataError(f"{str(root)!r} has one file to train on; batch norm needs two, and training many more")
        if 4 * self._length * (self.sizes["train"] + self.sizes["val"]) <= _IN_MEMORY:
            for split in SEARCHED:
                self._clips[split] = self._read(split, list(range(self.sizes[split])))

    def train_stream(self, batch_size: int, epoch: int, seed: int, runtime: Placement) -> Iterator[LabelledBatch]:
        """Yield one epoch of training batches, the same for the same arguments on every device."""
        generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
        for index in torch.split(torch.randperm(self.sizes["train"], generator=generator), batch_size):
            if len(index) == 1 < batch_size:
                return
            yield self._batch("train", index.tolist(), runtime, generator)

    def eval_batches(
        self, split: str, batch_size: int, runtime: Placement, limit: int | None = None
    ) -> Iterator[LabelledBatch]:
        """Yield the clips of a split as they are; ``limit`` takes a fixed random subset.

        Raises:
            UnknownNameError: if there is no such split.
            DataError: if it is empty, or a file cannot be read.
        """
        check_split(split, self.sizes, self.name)
        count = self.sizes[split]
        index = subset(count, count if limit is None else limit)
        for start in range(0, len(index), batch_size):
            yield self._batch(split, index[start : start + batch_size], runtime)

    def identity(self) -> str:
        """Return a hash of the splits, of their files' names, sizes and dates, and of the rate and length."""
        digest = hashlib.sha256(repr((self._rate, self.input_shape, self.class_names)).encode())
        for split in SEARCHED:
            for file in self._listings[split].files:
                stat, name = file.stat(), file.relative_to(self._root).as_posix()
                digest.update(f"{split} {name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _batch(
        self, split: str, index: list[int], runtime: Placement, generator: torch.Generator | None = None
    ) -> LabelledBatch:
        stored = self._clips.get(split)
        clips = self._read(split, index) if stored is None else stored[index]  # a copy of what is stored
        if generator is not None:
            clips = moved(clips, self._length // _SHIFT, generator)
        labels = torch.tensor([self._listings[split].labels[each] for each in index])
        return LabelledBatch(clips[:, None].to(runtime.device), labels.to(runtime.device))

    def _read(self, split: str, index: list[int]) -> Tensor:
        files = self._listings[split].files
        clips = torch.empty(len(index), self._length)
        for row, each in enumerate(index):
            clips[row] = read_wav(files[each], self._rate, self._length)
        return clips


def moved(clips: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return clips ``(N, T)``, each moved in time by up to ``most`` samples; what comes in is silence.

    >>> bool((moved(torch.ones(3, 8), 0, torch.Generator()) == 1).all())
    True
    """
    starts = torch.randint(0, 2 * most + 1, (len(clips), 1), generator=generator)
    return F.pad(clips, (most, most)).gather(1, starts + torch.arange(clips.shape[1]))
