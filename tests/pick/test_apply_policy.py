"""A policy for another network: counts of its own, what does not fit is listed, and nobody's folder is overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import any_inputs
import pytest
import torch
from click.testing import CliRunner, Result
from tiny import write_task

import autoprune
from autoprune.cli import main
from autoprune.core.policy import MaskPolicy, PruningPolicy
from autoprune.core.registry import load_object
from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs

pytestmark = pytest.mark.usefixtures("checks_in_this_process", "process_is_left_as_it_was")

WIDE = "\n\ndef wide(num_classes, in_channels):\n    network = Net(num_classes, in_channels)\n" + "".join(
    f"    network.{line}\n"
    for line in (
        "conv2 = nn.Conv2d(8, 40, 3, padding=1, bias=False)",
        "bn2 = nn.BatchNorm2d(40)",
        "conv3 = nn.Conv2d(40, 8, 3, padding=1, bias=False)",
    )
)
WIDE += (
    "    return network\n\n\ndef other():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3))\n"
)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write_task(tmp_path_factory.mktemp("apply"))
    file.write_text(file.read_text() + WIDE)
    return file


def write_policy(folder: Path, policy: PruningPolicy) -> Path:
    made_for = {"model": "tiny.py:net", "num_classes": 3, "input_shape": [1, 8, 8]}
    document = {
        "format": 1,
        "policy": json.loads(policy.to_json()),
        "channels": {"conv1": 8, "conv2": 16},
        "made_for": made_for,
    }
    path = folder / "policy.json"
    path.write_text(json.dumps(document))
    return path


def run(*arguments: str | Path) -> Result:
    found = CliRunner().invoke(main, ["apply", *map(str, arguments), "--export", "none"], prog_name="autoprune")
    assert not found.exception or isinstance(found.exception, SystemExit), found.exception
    return found


HALF = PruningPolicy.uniform(0.5, "l1", names=["conv1", "conv2"])


def test_a_wider_network_loses_the_same_share_of_its_own_channels(code: Path, tmp_path: Path) -> None:
    dense = load_object(f"{code}:wide")(num_classes=3, in_channels=1)
    torch.save(dense.state_dict(), tmp_path / "weights.pt")
    target = tmp_path / "made" / "small"
    done = run(
        write_policy(tmp_path, HALF),
        "--model",
        f"{code}:wide",
        "--weights",
        tmp_path / "weights.pt",
        "-o",
        target,
        "--json",
    )
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert card["groups"]["conv1"] == {"channels": 8, "kept": 4, "importance": "l1"}
    assert card["groups"]["conv2"] == {"channels": 40, "kept": 20, "importance": "l1"}
    assert "other channel counts: conv2 (16 channels there, 40 here)" in card["notes"]
    network = autoprune.load(target, trust_code=True)
    assert [len(network.get_submodule(name).weight) for name in ("conv1", "conv2", "conv3")] == [4, 20, 4]
    kept = json.loads((target / "architecture.json").read_text())["kept"]["conv2"]["out"]
    assert torch.equal(network.conv2.weight[:, 0], dense.conv2.weight[kept][:, json_in(target)[0]])
    assert card["exports"] == {}
    assert all(check["passed"] for check in card["checks"])
    assert "accuracy" not in card["validation"]["values"], "there was no data"
    assert "unknown: the weights were given as 'weights.pt'" in (target / "card.md").read_text()
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def json_in(folder: Path) -> list[int]:
    found: list[int] = json.loads((folder / "architecture.json").read_text())["kept"]["conv2"]["in"]
    return found


def test_data_recalibrates_and_scores_and_masks_are_put_on(code: Path, tmp_path: Path) -> None:
    policy = PruningPolicy(HALF.groups, mask=MaskPolicy("weight", "magnitude", {"conv3": 0.5}))
    target = tmp_path / "applied"
    done = run(
        write_policy(tmp_path, policy),
        "--model",
        f"{code}:net",
        "--data",
        f"{code}:data",
        "-o",
        target,
        "--device",
        "cpu",
    )
    assert done.exit_code == 0, done.output
    assert "accuracy on validation" in done.stdout
    assert f"written: {target}" in done.stdout
    network = autoprune.load(target, trust_code=True)
    assert int((network.conv3.weight == 0).sum()) == network.conv3.weight.numel() // 2
    assert float(network.bn1.running_mean.abs().sum()) > 0
    assert json.loads((target / "card.json").read_text())["data"]["sizes"]["val"] == 48


def test_weights_stay_as_they_are_without_compensation(code: Path, tmp_path: Path) -> None:
    dense = load_object(f"{code}:net")(num_classes=3, in_channels=1)
    torch.save(dense.state_dict(), tmp_path / "weights.pt")
    own = ("--model", f"{code}:net", "--weights", tmp_path / "weights.pt", "--data", f"{code}:data", "--device", "cpu")
    same = []
    for name, more in (("refitted", ()), ("sliced", ("--no-compensation",))):
        target = tmp_path / name
        assert run(write_policy(tmp_path, HALF), *own, "-o", target, *more).exit_code == 0
        network = autoprune.load(target, trust_code=True)
        kept = json.loads((target / "architecture.json").read_text())["kept"]["conv2"]
        same.append(torch.equal(network.conv2.weight, dense.conv2.weight[kept["out"]][:, kept["in"]]))
    assert same == [False, True]


def test_everything_that_does_not_fit_is_listed_at_once(code: Path, tmp_path: Path) -> None:
    policy = PruningPolicy(
        {**HALF.groups, **PruningPolicy.uniform(0.5, "l1", names=["fc", "conv9"]).groups}, 1, ("layer7",)
    )
    done = run(write_policy(tmp_path, policy), "--model", f"{code}:wide", "-o", tmp_path / "no")
    assert done.exit_code == 1
    for part in (
        "groups it lacks: conv9, fc (frozen: ",
        "blocks it lacks: layer7",
        "other channel counts: conv2 (16 channels there, 40 here)",
    ):
        assert part in done.stderr
    done = run(write_policy(tmp_path, HALF), "--model", f"{code}:other", "-o", tmp_path / "no")
    assert "groups it lacks: conv1, conv2" in done.stderr
    assert "does not name, which stay whole: 1" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


def test_a_criterion_that_needs_data_says_so(code: Path, tmp_path: Path) -> None:
    policy = write_policy(tmp_path, PruningPolicy.uniform(0.5, "taylor", names=["conv2"]))
    done = run(policy, "--model", f"{code}:net", "-o", tmp_path / "no")
    assert done.exit_code == 1
    assert "taylor" in done.stderr
    assert "--data" in done.stderr


@pytest.mark.parametrize(
    ("content", "part"),
    [(None, "cannot be read"), ("[1]", "holds no policy"), ('{"policy": {}}', "holds no policy"), ("{", "no policy")],
)
def test_what_is_no_policy_is_said_before_anything_is_built(tmp_path: Path, content: Any, part: str) -> None:
    path = tmp_path / "policy.json"
    if content is not None:
        path.write_text(content)
    done = run(path, "--model", "resnet20", "-o", tmp_path / "no")
    assert done.exit_code == 2
    assert part in done.stderr


def test_a_bare_policy_needs_the_shape_and_no_folder_is_overwritten(code: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.json"
    path.write_text(HALF.to_json())
    done = run(path, "--model", f"{code}:net", "-o", tmp_path / "no")
    assert (done.exit_code, "--input and --classes" in done.stderr) == (2, True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("work")
    done = run(path, "--model", f"{code}:net", "-o", tmp_path / "mine", "--force")
    assert (done.exit_code, "did not write" in done.stderr) == (2, True)
    whole = json.loads(HALF.to_json())
    whole["groups"]["conv9"] = [0.0, "l1"]  # nothing goes there, so a network may lack it
    path.write_text(json.dumps(whole))
    target = tmp_path / "yes"
    asked = (path, "--model", f"{code}:net", "--input", "1x8x8", "--classes", "3", "-o", target)
    assert run(*asked).exit_code == 0
    done = run(*asked)
    assert (done.exit_code, "--force" in done.stderr) == (2, True)
    assert run(*asked, "--force").exit_code == 0


# --- inputs of any structure


OBJECTS = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Batch:
    x: torch.Tensor

class Takes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
    def forward(self, batch):
        return self.second(self.first(batch.x).relu())

def batch():
    return Batch(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
"""


def apply_half(folder: Path, network: str, *more: str | Path) -> Result:
    (folder / "half.json").write_text(PruningPolicy.uniform(0.5, "l1").to_json())
    return run(folder / "half.json", "--model", network, "-o", folder / "small", "--device", "cpu", "--json", *more)


@pytest.mark.parametrize(("name", "batch"), [("Encoder", "PASSAGES"), ("Recurrent", "PACKED"), ("TwoTowers", "PAIR")])
def test_a_network_of_any_inputs_is_pruned_and_its_policy_goes_on_to_the_next_one(
    name: str, batch: str, tmp_path: Path
) -> None:
    network, example = (f"{any_inputs.__file__}:{one}" for one in (name, batch))
    done = apply_half(tmp_path, network, "--example", example)
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert all(check["passed"] for check in card["checks"])
    assert {check["name"] for check in card["checks"]} >= {"autoprune.load", "plain PyTorch", "costs counted anew"}
    inputs = Inputs.of(getattr(any_inputs, batch))
    answers = answer_of(autoprune.load(tmp_path / "small", trust_code=True), inputs)
    assert [tensor.shape for tensor in answers] == [t.shape for t in answer_of(getattr(any_inputs, name)(), inputs)]
    again = run(tmp_path / "small" / "policy.json", "--model", network, "-o", tmp_path / "again", "--device", "cpu")
    assert again.exit_code == 0, again.output
    one_batch = "latency is that of one batch as it is" in (tmp_path / "again" / "card.md").read_text()
    assert one_batch is (inputs.size is None)


def test_objects_of_the_user_s_own_are_checked_by_the_process_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "objects.py").write_text(OBJECTS)
    network, example = (f"{tmp_path / 'objects.py'}:{one}" for one in ("Takes", "batch"))
    done = apply_half(tmp_path, network, "--example", example)
    assert done.exit_code == 0, done.output
    idle = [check for check in json.loads(done.stdout)["checks"] if check["passed"] is None]
    assert [check["detail"] for check in idle] == ["its inputs hold Batch, which only the user's own code can make"]
    assert "checked once loaded again" in (tmp_path / "small" / "card.md").read_text()
    lost = run(tmp_path / "small" / "policy.json", "--model", network, "-o", tmp_path / "again")
    assert lost.exit_code == 1
    assert "is a Batch, which autoprune cannot make by itself; give inputs with --example" in lost.stderr


def test_inputs_are_given_once(code: Path, tmp_path: Path) -> None:
    refused = apply_half(tmp_path, f"{code}:net", "--example", f"{any_inputs.__file__}:PAIR", "--input", "1x8x8")
    assert refused.exit_code == 2
    assert "--example gives the inputs themselves" in refused.stderr
