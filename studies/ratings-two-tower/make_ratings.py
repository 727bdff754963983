"""Write ratings to try ``ratings:`` with, from hidden tastes: each of 500 users rates some 50 of 200 items.

python studies/ratings-two-tower/make_ratings.py FILE.csv [USERS]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

ITEMS, FACTORS, NOISE = 200, 4, 0.4
SHARE = 0.25  # of the items that a user rates


def write_ratings(file: Path, users: int) -> None:
    """Write ratings from 1 to 5 in steps of a half: user's and item's factors, biases and noise."""
    rng = np.random.default_rng(0)
    tastes, traits = rng.normal(size=(users, FACTORS)), rng.normal(size=(ITEMS, FACTORS))
    biases = 0.4 * rng.normal(size=(users, 1)) + 0.4 * rng.normal(size=(1, ITEMS))
    wished = 3 + biases + tastes @ traits.T / np.sqrt(FACTORS) + NOISE * rng.normal(size=(users, ITEMS))
    ratings = np.clip(np.round(2 * wished) / 2, 1, 5)
    rated = rng.random((users, ITEMS)) < SHARE
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines)
        writer.writerow(("user", "item", "rating"))
        writer.writerows((f"u{user}", f"i{item}", ratings[user, item]) for user, item in np.argwhere(rated))


if __name__ == "__main__":
    write_ratings(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 500)
