"""Write sounds to try ``audiofolder:`` with: tones, chirps, beats, clicks and noises, a folder for each class.

python studies/audiofolder/make_sounds.py FOLDER [FILES PER CLASS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE, LENGTH = 8000, 4000
CLASSES = ("tone", "rising", "falling", "warble", "beats", "clicks", "hiss", "rumble")


def sound(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return half a second of a kind of sound under noise, int16."""
    time = np.arange(LENGTH) / RATE
    low, high = rng.uniform(200, 800), rng.uniform(1000, 2500)
    sweep = low + (high - low) * time / time[-1]
    white = rng.normal(size=LENGTH)
    wave = {
        "tone": lambda: np.sin(2 * np.pi * high * time),
        "rising": lambda: np.sin(2 * np.pi * np.cumsum(sweep) / RATE),
        "falling": lambda: np.sin(2 * np.pi * np.cumsum(sweep[::-1]) / RATE),
        "warble": lambda: np.sin(2 * np.pi * high * time + 30 * np.sin(2 * np.pi * rng.uniform(4, 9) * time)),
        "beats": lambda: np.sin(2 * np.pi * high * time) * np.sin(2 * np.pi * rng.uniform(4, 9) * time),
        "clicks": lambda: np.where(np.arange(LENGTH) % rng.integers(250, 600) < 20, white, 0),
        "hiss": lambda: np.diff(white, prepend=0),
        "rumble": lambda: np.convolve(white, np.ones(40) / 40, mode="same"),
    }[kind]()
    clip = 0.3 * wave / np.abs(wave).max() + 0.1 * rng.normal(size=LENGTH)
    return (np.clip(rng.uniform(0.3, 1) * clip, -1, 1) * 32767).astype(np.int16)


def write_sounds(folder: Path, count: int) -> None:
    """Write ``count`` files of each class."""
    rng = np.random.default_rng(0)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            wavfile.write(folder / kind / f"{kind}{number:03d}.wav", RATE, sound(kind, rng))


if __name__ == "__main__":
    write_sounds(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 120)
