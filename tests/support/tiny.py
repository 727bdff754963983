"""A network and images so small that a trial takes a tenth of a second, as a user would write them: in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCE = '''
"""A residual network of three convolutions, and three kinds of 8×8 images."""

import pathlib

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn3(self.conv3(self.bn2(self.conv2(x)).relu()))).relu()
        return self.fc(x.mean((2, 3)))


def net(num_classes, in_channels):
    return Net(num_classes, in_channels)


def images(count, seed):
    """Horizontal stripes, vertical stripes, or a bright middle, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    patterns = torch.zeros(3, 1, 8, 8)
    patterns[0, :, ::2], patterns[1, :, :, ::2], patterns[2, :, 2:6, 2:6] = 1, 1, 1
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    return ((0.4 * patterns[labels] + 0.6 * noise) * 255).to(torch.uint8), labels


def data():
    seed = pathlib.Path(__file__).with_name("seed.txt")  # stands for a file of images that may change
    first = int(seed.read_text()) if seed.exists() else 0
    return {"train": images(96, first), "val": images(48, first + 1), "test": images(48, first + 2), "padding": 0}
'''

SPEC = """\
objectives = ["accuracy", "mflops"]
trials = {trials}
sampler = "random"

[model]
source = "{file}:net"

[data]
source = "{file}:data"

[budget]
mflops = "60%"

[space]
importances = ["l1", "taylor"]
calibration_images = 48

[dense]
epochs = 3
batch_size = 32

[finetune]
epochs = {epochs}
batch_size = 32
recalibration_images = 48

[stopping]
half_way = "always"

[screening]
enabled = false

[pick]
epochs = 1
export = "none"

[latency]
runtime = "torch"
blocks = 5
calls = 1

[runtime]
device = "cpu"
precision = "fp32"
threads = 1
"""


def write_task(folder: Path) -> Path:
    """Write the network and the data into a folder; return the file that holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny.py"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def write_study(root: Path, name: str = "tiny", trials: int = 4, epochs: float = 1) -> Path:
    """Write a study of the tiny task under ``root``; return its folder."""
    file = write_task(root.parent / "code")
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(SPEC.format(file=file, trials=trials, epochs=epochs), encoding="utf-8")
    return folder


def command(*arguments: str | Path) -> list[str]:
    """Return the installed command with arguments."""
    return [str(Path(sys.executable).with_name("autoprune")), *map(str, arguments)]


def environment() -> Mapping[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", "PYTHONUNBUFFERED": "1"}


def call(*arguments: str | Path, cwd: Path | None = None, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the installed command to its end, or for so many seconds."""
    return subprocess.run(
        command(*arguments), env=environment(), cwd=cwd, text=True, capture_output=True, timeout=seconds, check=False
    )


def stored_trials(folder: Path) -> list[dict[str, Any]]:
    """Read every candidate and its outcome straight from the database, without autoprune."""
    import sqlite3

    query = (
        "select t.trial_id, t.state, c.value_json, o.value_json from trials t "
        "left join trial_user_attributes c on c.trial_id = t.trial_id and c.key = 'candidate' "
        "left join trial_user_attributes o on o.trial_id = t.trial_id and o.key = 'outcome' order by t.trial_id"
    )
    connection = sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True, timeout=30)
    try:
        rows = connection.execute(query).fetchall()
    finally:
        connection.close()
    return [
        {
            "record": record,
            "state": state,
            **(json.loads(json.loads(candidate)) if candidate else {}),
            "outcome": json.loads(json.loads(outcome)) if outcome else None,
        }
        for record, state, candidate, outcome in rows
    ]


def finished(folder: Path) -> list[tuple[int, str]]:
    """Return (number, policy) of every trial with an outcome, by number."""
    return sorted((t["number"], json.dumps(t["policy"])) for t in stored_trials(folder) if t["outcome"])
