"""A network of two inputs of ids, on a file of ratings, through every command; its tables have the data's sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import call

import autoprune
from autoprune.export.architecture import read_architecture

CODE = """
from torch import nn


class Towers(nn.Module):
    def __init__(self, num_users, num_items):
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, 8), nn.Embedding(num_items, 8)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, users, items):
        return 3 + (self.left(self.users(users)) * self.right(self.items(items))).sum(1)


def net(num_users, num_items):
    return Towers(num_users, num_items)
"""
SHORT = (
    *("--importances", "l2"),  # which needs no data, for apply
    *("--dense-epochs", "2", "--finetune-epochs", "1", "--trials", "2", "--latency-runtime", "torch", "--threads", "1"),
    "--no-screening",
    *(
        "--set",
        "latency.blocks=5",
        "--set",
        "latency.calls=1",
        "--set",
        "pick.epochs=1",
        "--set",
        "objectives=['rmse','mparams']",
    ),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be in a folder with a network and ratings of 30 users, most of whom rated each of 20 items."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(CODE, encoding="utf-8")
    rng = np.random.default_rng(0)
    rows = [f"u{u},i{i},{rng.integers(1, 6)}" for u in range(30) for i in range(20) if rng.random() < 0.8]
    Path("r.csv").write_text("user,item,rating\n" + "\n".join(rows), encoding="utf-8")
    return tmp_path


def output_of(*arguments: str) -> str:
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_network_of_the_datas_sizes_goes_from_inspect_to_apply(here: Path) -> None:
    named = ("--data", "ratings:r.csv")
    found = json.loads(output_of("inspect", "net.py:net", *named, "--json"))
    profiled = json.loads(output_of("profile", "net.py:net", *named, "--latency-runtime", "torch", "--json"))
    parameters = (31 + 21) * 8 + 2 * (8 * 6 + 6)
    assert found["dense"]["mparams"] == profiled["whole"]["mparams"] == parameters / 1e6

    output_of("search", "mine", "--model", "net.py:net", *named, "--budget-mparams", "60%", *SHORT, "--root", ".")
    picked = json.loads(output_of("pick", "mine", "--root", ".", "--export", "none", "--json"))
    folder = Path(picked["folder"])
    assert read_architecture(folder).dense.offers == {"num_users": 31, "num_items": 21}
    inputs = read_architecture(folder).dense.example(4)
    assert autoprune.load(folder, trust_code=True)(*inputs.args).shape == (4,)

    Path("r.csv").unlink()  # the policy knows the sizes, too
    applied = output_of("apply", str(folder / "policy.json"), "--model", "net.py:net", "-o", "again", "--json")
    assert json.loads(applied)
    assert read_architecture(Path("again")).dense.offers == {"num_users": 31, "num_items": 21}
