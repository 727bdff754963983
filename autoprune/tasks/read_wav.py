"""One WAV file as a row of numbers: any width, channels and rate, brought to one channel, one rate and one length."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoprune.errors import DataError


def read_wav(file: Path, sample_rate: int, length: int) -> Tensor:
    """Return a clip in [−1, 1], ``(length,)``, float32: its channels averaged, resampled, cut or padded at its end.

    Raises:
        DataError: if the file cannot be read, is cut short, or holds no samples or numbers that are none.
    """
    from scipy.signal import resample_poly

    rate, samples = _decoded(file)
    if not len(samples):
        raise _unreadable(file, "it holds no samples")
    clip = samples.mean(axis=1) if samples.ndim == 2 else samples
    if rate != sample_rate:
        common = math.gcd(rate, sample_rate)
        clip = resample_poly(clip[: rate * length // sample_rate + rate], sample_rate // common, rate // common)
    kept = torch.zeros(length)
    taken = torch.from_numpy(np.ascontiguousarray(clip[:length], dtype=np.float32))
    kept[: len(taken)] = taken
    if not kept.isfinite().all():
        raise _unreadable(file, "it holds NaN or infinite numbers")
    return kept


def _decoded(file: Path) -> tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return the rate, and the samples in [−1, 1], ``(T,)`` or ``(T, channels)``."""
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", wavfile.WavFileWarning)  # a file that is cut short
            warnings.filterwarnings("ignore", "Chunk", wavfile.WavFileWarning)  # what some programs add
            rate, samples = wavfile.read(file)
    except Exception as error:  # a damaged file makes the reader fail in many ways
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    if rate < 1:
        raise _unreadable(file, f"its rate is {rate} samples per second")
    if samples.dtype == np.uint8:  # the only unsigned ones
        return int(rate), (samples.astype(np.float32) - 128) / 128
    scale = -float(np.iinfo(samples.dtype).min) if np.issubdtype(samples.dtype, np.integer) else 1.0
    return int(rate), samples.astype(np.float32) / np.float32(scale)


def _unreadable(file: Path, why: str) -> DataError:
    return DataError(
        f"the sound {str(file)!r} cannot be read ({why}); expected a WAV file of PCM or floats: replace or remove it"
    )
