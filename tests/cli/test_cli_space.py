"""What may be pruned, said on the command line: layers, patterns, blocks and the threshold baseline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from tiny import stored_trials, write_study

from autoprune.cli import main
from autoprune.search.setup import find_space

pytestmark = pytest.mark.usefixtures("checks_in_this_process")


def run(*arguments: str | Path) -> Result:
    """Run a command in this process; an exception that is no deliberate exit is a bug and fails the test."""
    result = CliRunner(env={"COLUMNS": "160", "AUTOPRUNE_STORAGE": ""}).invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_layers_are_kept_and_selected_by_glob(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=1, epochs=0)
    inspected = document(run("inspect", folder, "--keep", "conv2", "--json"))
    assert [group["name"] for group in inspected["groups"]] == ["conv1"]
    kept = next(group for group in inspected["frozen"] if group["name"] == "conv2")
    assert (kept["channels"], kept["reason"]) == (16, "kept by 'conv2'")
    inspected = document(run("inspect", folder, "--only", "conv2", "--json"))
    assert [group["name"] for group in inspected["groups"]] == ["conv2"]
    kept = run("search", folder, "--keep", "conv2")
    assert kept.exit_code == 0, kept.output
    (trial,) = stored_trials(folder)
    assert set(trial["policy"]["groups"]) == {"conv1"}


def test_a_glob_that_matches_nothing_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    result = run("search", folder, "--keep", "conv7")
    assert result.exit_code == 2
    assert "'conv7' matches no layer of the network" in result.output
    assert not (folder / "dense.safetensors").exists()


UNCUTTABLE = """
from torch import nn

class Fixed(nn.Module):  # its width is written into the code, which the trace does not see and every trial cut does
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x).relu().mean((2, 3))
        assert x.shape[1] == 8
        return self.head(x)

def fixed():
    return Fixed()

def only_output():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


@pytest.mark.parametrize(
    "given",
    [
        ("--keep", "conv1,conv2"),
        ("--model", "uncuttable.py:fixed"),
        ("--model", "uncuttable.py:only_output"),
        ("--model", "uncuttable.py:only_output", "--patterns", "weight"),
    ],
)
def test_nothing_left_to_prune_is_said_before_anything_is_trained(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_study(tmp_path / "studies")
    (tmp_path / "uncuttable.py").write_text(UNCUTTABLE)
    monkeypatch.chdir(tmp_path)
    result = run("search", folder, *given)
    assert result.exit_code == 1
    assert "nothing in this network can be pruned" in result.output
    assert "training the dense network" not in result.output
    assert not (folder / "dense.safetensors").exists()


MASKED = ("--patterns", "weight", "--objectives", "accuracy,nonzero_mflops", "--budget-nonzero-mflops", "40%")


@pytest.mark.parametrize("given", [MASKED, ()])
def test_what_can_be_pruned_is_looked_for_once_and_only_glimpsed_before_the_training(
    given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    found = find_space.find_groups
    monkeypatch.setattr(find_space, "find_groups", lambda *args: calls.append(1) or found(*args))
    result = run("search", write_study(tmp_path / "studies", trials=1, epochs=0), *given)
    assert result.exit_code == 0, result.output
    assert "training the dense network" in result.output
    assert len(calls) == 1


def test_a_criterion_that_breaks_is_named_with_its_group(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies")
    broken = tmp_path / "mine.py"
    broken.write_text("def short(group, network, calibration):\n    import torch\n    return torch.ones(3)\n")
    result = run("search", folder, "--importances", f"l1,{broken}:short")
    assert result.exit_code == 1
    assert "short' returned (3,) for group 'conv1'; expected one score per channel" in " ".join(result.output.split())


def test_masks_are_searched_reported_and_picked(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=3)
    masked = ("--patterns", "channel,weight", "--objectives", "accuracy,nonzero_mflops")
    result = run("search", folder, *masked, "--budget-nonzero-mflops", "40%")
    assert result.exit_code == 0, result.output
    card = document(run("pick", folder, "--trial", "0", "--json"))
    values = card["validation"]["values"]
    assert values["nonzero_mflops"] <= 0.4 * card["dense"]["validation"]["values"]["nonzero_mflops"]
    assert values["nonzero_mflops"] < values["mflops"]
    weights = load_file(Path(card["folder"]) / "model.safetensors")
    assert sum(int((tensor == 0).sum()) for name, tensor in weights.items() if name.startswith("conv")) > 0
    assert card["mask"]["pattern"] == "weight"


def test_a_two_of_four_mask_names_what_it_leaves_dense(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=1)
    masked = ("--patterns", "2:4", "--objectives", "accuracy,nonzero_mparams", "--budget-nonzero-mparams", "70%")
    result = run("search", folder, *masked)
    assert result.exit_code == 0, result.output
    card = document(run("pick", folder, "--json"))
    assert card["mask"]["left_dense"] == {"conv1": "its rows hold 9 weights, which is not a multiple of 4"}
    assert "this is a CPU" in card["mask"]["kernels"]
    assert card["validation"]["values"]["mflops"] == card["dense"]["validation"]["values"]["mflops"]


def test_what_is_not_zero_is_budgeted_only_where_there_are_masks(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=1)
    result = run("search", folder, "--budget-nonzero-mflops", "40%")
    assert result.exit_code == 2
    assert "counted where there are masks" in " ".join(result.output.split())


def test_what_each_group_tolerates_is_measured_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "studies", trials=4, epochs=0)
    result = run("search", folder, "--max-drop", "1%", "--budget-mflops", "35%")
    assert result.exit_code == 0, result.output
    assert "until accuracy is worse by 1.00 points" in result.output
    again = run("search", folder, "--max-drop", "1%", "--budget-mflops", "35%", "--trials", "5")
    assert "until accuracy is worse" not in again.output
    counts = json.loads((folder / "threshold.json").read_text(encoding="utf-8"))
    assert set(counts["counts"]) == {"conv1", "conv2"}
