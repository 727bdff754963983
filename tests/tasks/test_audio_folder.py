"""Folders of WAV files: which split a file is in, how it is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from task_contract import DataTaskContract, collect, same

import autoprune.tasks.audio_folder as audio_folder
from autoprune.errors import DataError
from autoprune.tasks.builtin import build_task
from autoprune.tasks.read_wav import read_wav
from autoprune.tasks.sound_listing import list_sounds, split_of
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime

RATE = 1000


def write_sounds(root: Path, count: int = 40, names: tuple[str, ...] = ("no", "yes")) -> Path:
    """Write tones of a frequency for each class, in which no sample is 0."""
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            wave = np.sin(2 * np.pi * 50 * (label + 1) * np.arange(100) / RATE + number)
            wavfile.write(root / name / f"{number:x}_nohash_0.wav", RATE, (9_000 * wave + 10_000).astype(np.int16))
    return root


def task_of(root: Path, **more: float) -> DataTask:
    return build_task(f"audiofolder:{root}", **{"sample_rate": RATE, "seconds": 0.1, **more})  # type: ignore[arg-type]


class TestAudioFolder(DataTaskContract):
    @pytest.fixture
    def any_task(self, tmp_path: Path) -> DataTask:
        return task_of(write_sounds(tmp_path / "words"))

    def test_clips_of_one_channel_are_named_by_their_folder(self, any_task: DataTask) -> None:
        assert any_task.needs.input_shape == (1, 100)
        assert any_task.needs.num_classes == 2
        assert any_task.name == "words"
        assert sum(any_task.sizes.values()) == 80
        assert all(any_task.sizes.values())

    def test_training_moves_clips_by_a_tenth_and_evaluation_none(self, any_task: DataTask, runtime: Runtime) -> None:
        batch = next(iter(any_task.train_stream(64, 0, 0, runtime)))
        silent = (batch.images == 0).sum(2).flatten()
        assert 1 < int(silent.max()) <= 11
        assert len(set(silent.tolist())) > 3

    def test_what_does_not_fit_into_memory_is_read_when_it_is_needed(
        self, any_task: DataTask, tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audio_folder, "_IN_MEMORY", 0)
        read = task_of(tmp_path / "words")
        assert same(collect(any_task.train_stream(8, 1, 2, runtime)), collect(read.train_stream(8, 1, 2, runtime)))
        assert read.identity() == any_task.identity()

    def test_test_files_are_opened_for_the_test_split_only(
        self, any_task: DataTask, tmp_path: Path, runtime: Runtime
    ) -> None:
        for file in list_sounds(tmp_path / "words")["test"].files:
            file.write_bytes(b"no sound")
        task = task_of(tmp_path / "words")
        list(task.train_stream(4, 0, 0, runtime))
        assert task.identity() == any_task.identity()
        with pytest.raises(DataError, match=r"nohash_0.wav' cannot be read"):
            list(task.eval_batches("test", 4, runtime))

    def test_identity_follows_the_files_the_rate_and_the_length(self, any_task: DataTask, tmp_path: Path) -> None:
        root = tmp_path / "words"
        before = any_task.identity()
        others = {before, task_of(root, sample_rate=500).identity(), task_of(root, seconds=0.2).identity()}
        file = list_sounds(root)["train"].files[0]
        file.write_bytes(file.read_bytes() + b"\0\0")
        assert len(others | {task_of(root).identity()}) == 4


class TestSplits:
    def test_lists_say_which_files_validate_and_test(self, tmp_path: Path) -> None:
        root = write_sounds(tmp_path, 4)
        (root / "validation_list.txt").write_text("no/1_nohash_0.wav\nyes/1_nohash_0.wav\ngone/0.wav\n")
        (root / "testing_list.txt").write_text("no\\2_nohash_0.wav\r\n./yes/3_nohash_0.wav\n")
        found = list_sounds(root)
        assert {split: [file.name[0] for file in each.files] for split, each in found.items()} == {
            "train": ["0", "3", "0", "2"],
            "val": ["1", "1"],
            "test": ["2", "3"],
        }
        (root / "testing_list.txt").unlink()
        assert set(list_sounds(root)) == {"train", "val"}

    def test_folders_of_splits_are_used_as_they_are(self, tmp_path: Path) -> None:
        for split, count in (("train", 5), ("val", 2)):
            write_sounds(tmp_path / split, count)
        assert task_of(tmp_path).sizes == {"train": 10, "val": 4, "test": 0}

    def test_hashes_are_those_of_speech_commands(self) -> None:
        # by the which_set() of its paper and README, on names of its own
        names = ["a", "b", "c", *(f"{number:08x}_nohash_{number % 3}.wav" for number in range(300))]
        assert [split_of(f"x/{name}") for name in names] == [which_set(name) for name in names]
        shares = [sum(split_of(name) == split for name in names) / len(names) for split in ("train", "val", "test")]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)

    def test_background_noise_and_hidden_folders_are_no_class(self, tmp_path: Path) -> None:
        root = write_sounds(tmp_path, 40, ("no", "yes", "_background_noise_", ".trash"))
        assert list_sounds(root)["train"].class_names == ("no", "yes")


def which_set(filename: str) -> str:
    """Say the split as Warden (2018) writes it down: of a SHA-1 as a hexadecimal number, modulo 2²⁷."""
    import hashlib

    hashed = hashlib.sha1(filename.split("_nohash_")[0].encode("utf-8")).hexdigest()
    percentage = (int(hashed, 16) % 134217728) * (100.0 / 134217727)
    return "val" if percentage < 10 else "test" if percentage < 20 else "train"


SINE = np.sin(2 * np.pi * 5 * np.arange(400) / 400).astype(np.float32) / 2


class TestReadWav:
    @pytest.mark.parametrize(
        "samples",
        [
            SINE,
            SINE.astype(np.float64),
            (SINE * 2**15).astype(np.int16),
            (SINE * 2**31).astype(np.int32),
            (SINE * 128 + 128).astype(np.uint8),
            np.stack([SINE * 2, SINE * 0], 1),
            np.stack([(SINE * 2**15).astype(np.int16)] * 3, 1),
        ],
        ids=["float", "double", "16", "32", "8", "stereo", "three"],
    )
    def test_any_width_and_number_of_channels(self, samples: np.ndarray, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "a.wav", 400, samples)
        assert torch.allclose(read_wav(tmp_path / "a.wav", 400, 400), torch.from_numpy(SINE), atol=1 / 100)

    @pytest.mark.parametrize("rate", [200, 600, 441])
    def test_another_rate_is_resampled(self, rate: int, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "a.wav", 400, SINE)
        clip = read_wav(tmp_path / "a.wav", rate, rate)
        expected = torch.sin(2 * torch.pi * 5 * torch.arange(rate) / rate) / 2
        assert (clip - expected)[20:-20].abs().max() < 0.02

    def test_short_clips_end_in_silence_and_long_ones_are_cut(self, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "a.wav", 400, SINE)
        longer, shorter = read_wav(tmp_path / "a.wav", 400, 500), read_wav(tmp_path / "a.wav", 400, 30)
        assert torch.equal(longer, torch.cat([torch.from_numpy(SINE), torch.zeros(100)]))
        assert torch.equal(shorter, torch.from_numpy(SINE[:30]))

    def test_chunks_that_programs_add_are_skipped(self, tmp_path: Path) -> None:
        wavfile.write(tmp_path / "a.wav", 400, SINE)
        content = (tmp_path / "a.wav").read_bytes() + b"LIST\x04\0\0\0INFO" + b"odd \x02\0\0\0ab"
        (tmp_path / "a.wav").write_bytes(content[:4] + (len(content) - 8).to_bytes(4, "little") + content[8:])
        assert torch.equal(read_wav(tmp_path / "a.wav", 400, 400), torch.from_numpy(SINE))

    @pytest.mark.parametrize(
        "content",
        [b"", b"RIFF", b"no sound at all, but text", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0", b"ID3\x04" + bytes(200)],
    )
    def test_what_is_no_wav_file_is_named(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(DataError, match=r"the sound '.*a\.wav' cannot be read .*; .*replace or remove it"):
            read_wav(tmp_path / "a.wav", 400, 400)

    def test_a_file_cut_short_a_silent_and_a_broken_one_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "a.wav"
        wavfile.write(file, 400, SINE)
        file.write_bytes(file.read_bytes()[:500])
        with pytest.raises(DataError, match="cannot be read"):
            read_wav(file, 400, 400)
        wavfile.write(file, 400, SINE[:0])
        with pytest.raises(DataError, match="holds no samples"):
            read_wav(file, 400, 400)
        wavfile.write(file, 400, SINE * np.float32("nan"))
        with pytest.raises(DataError, match="NaN or infinite"):
            read_wav(file, 400, 400)


class TestFaults:
    def refused(self, root: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            task_of(root)

    def test_no_folder_or_an_empty_one(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none", "there is no folder of sounds .*; expected one folder for every class")
        self.refused(tmp_path, r"holds no WAV file in any class folder; known endings: \.wav")

    def test_a_class_without_files(self, tmp_path: Path) -> None:
        root = write_sounds(tmp_path)
        (root / "maybe").mkdir()
        (root / "maybe" / "a.mp3").write_bytes(b"")
        self.refused(root, "the class folder '.*maybe' holds no WAV file; fill it or remove it")

    def test_one_class(self, tmp_path: Path) -> None:
        self.refused(write_sounds(tmp_path, names=("yes",)), "one class folder only, 'yes'; expected two or more")

    def test_nothing_to_validate_or_to_train_on(self, tmp_path: Path) -> None:
        root = write_sounds(tmp_path, 1)
        self.refused(root, "nothing to validate on: by their names' hashes none of its 2 files validates; add files")
        (root / "testing_list.txt").write_text("no/0_nohash_0.wav\n")
        self.refused(
            root,
            "testing_list.txt names no file of it that is to validate; name some in validation_list.txt, with a line",
        )
        (root / "validation_list.txt").write_text("no/0_nohash_0.wav\n")
        self.refused(root, "nothing to train on of 'no': all files of it validate or test")

    def test_a_damaged_file_is_named_before_anything_is_trained(self, tmp_path: Path) -> None:
        root = write_sounds(tmp_path)
        list_sounds(root)["train"].files[3].write_bytes(b"RIFF")
        self.refused(root, "nohash_0.wav' cannot be read")

    def test_a_length_of_no_sample(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no sample; give data\.seconds"):
            task_of(write_sounds(tmp_path), seconds=0.0001)
