"""``autoprune profile``: sums equal the whole, whatever the network is named by, and what makes no sense is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import any_inputs
import pytest
import torch
from click.testing import CliRunner, Result
from tiny import write_task

from autoprune.cli import main
from autoprune.core.policy import PruningPolicy
from autoprune.cost.timing_engines import Engine
from autoprune.errors import ExportError
from autoprune.export.architecture import Architecture, PrunedArchitecture
from autoprune.export.saved_network import save_network
from autoprune.models.build import build_model
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.cut_plan import KeptChannels
from autoprune.pruning.surgery import shrink
from autoprune.search.setup import profile_network as profiling

QUICK = ("--latency-runtime", "torch", "--device", "cpu")


def run(*arguments: str | Path) -> Result:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["profile", *(str(a) for a in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def check_sums(found: dict[str, Any]) -> None:
    for cost, whole in found["whole"].items():
        assert sum(layer[cost] for layer in found["layers"]) == pytest.approx(whole)
    assert sum(layer["share"] for layer in found["layers"]) == pytest.approx(1)
    assert sum(layer["eager_ms"] for layer in found["layers"]) == pytest.approx(found["layers_eager_ms"])
    assert found["latency"]["torch"]["ms"] > 0


def test_a_built_in_network_is_taken_apart(tmp_path: Path) -> None:
    found = document("resnet20", "--input", "3x32x32", "--classes", "10", "--batch", "2", *QUICK)
    check_sums(found)
    assert found["whole"]["mflops"] == pytest.approx(40.81, abs=0.005)
    assert {"relu", "add", "mean"} <= {one["operation"].rstrip("_") for one in found["uncounted"]}
    assert "multiply–accumulate" in found["flop_convention"]
    assert found["timing"]["batch"] == 2


def test_your_own_network_takes_the_shape_of_its_data(tmp_path: Path) -> None:
    file = write_task(tmp_path)
    result = run(f"{file}:net", "--data", f"{file}:data", "--sort", "time", *QUICK)
    assert result.exit_code == 0, result.output
    for words in ("on 1×8×8", "MFLOPs", "latency in torch", "conv2", "not counted: ", "eager ms"):
        assert words in result.stdout
    layers = document(f"{file}:net", "--data", f"{file}:data", "--sort", "mflops", *QUICK)["layers"]
    assert [layer["mflops"] for layer in layers] == sorted((layer["mflops"] for layer in layers), reverse=True)


@pytest.fixture
def picked(tmp_path: Path) -> Path:
    """A network with half of its inner channels, as ``autoprune pick`` writes it."""
    file = write_task(tmp_path / "code")
    what = Architecture(f"{file}:net", 3, (1, 8, 8))
    dense = build_model(what.source, num_classes=3, input_shape=what.input_shape, seed=0)
    kept = tuple(range(8))
    cut = {
        "conv2": KeptChannels.from_json({"out": kept}),
        "bn2": KeptChannels.from_json({"out": kept}),
        "conv3": KeptChannels.from_json({"in": kept}),
    }
    folder = tmp_path / "picked" / "7"
    folder.mkdir(parents=True)
    small = shrink(dense, cut)
    save_network(folder, small, PrunedArchitecture.of(small, cut, what, PruningPolicy(), {}))
    return folder


def test_a_picked_folder_knows_what_it_is(picked: Path) -> None:
    found = document(picked, "--trust-code", *QUICK)
    check_sums(found)
    (conv,) = (layer for layer in found["layers"] if layer["name"] == "conv2")
    assert (conv["inputs"], conv["outputs"]) == (8, 8)
    assert found["model"] == str(picked)
    refused = run(picked, "--input", "1x8x8")
    assert refused.exit_code == 2
    assert "knows its input" in refused.output
    (picked / "model.safetensors").unlink()
    refused = run(picked)
    assert refused.exit_code == 2
    assert "folder without model.safetensors" in refused.output


def of_nets(name: str) -> str:
    return f"{any_inputs.__file__}:{name}"


def test_inputs_of_any_structure_are_given_by_the_users_own_code(tmp_path: Path) -> None:
    found = document(of_nets("Encoder"), "--example", of_nets("PASSAGES"), "--batch", "3", *QUICK)
    check_sums(found)
    assert found["inputs"] == "ids=int64(3, 9), mask=int64(3, 9)"
    assert found["timing"]["batch"] == 3
    result = run(of_nets("Recurrent"), "--example", of_nets("PACKED"), "--batch", "3", *QUICK)
    assert result.exit_code == 0, result.output
    assert "timed with one batch as it is, whose examples cannot be told apart" in result.stdout


def test_a_picked_folder_is_profiled_on_inputs_of_its_own_structure_or_on_given_ones(tmp_path: Path) -> None:
    network, inputs = any_inputs.TwoTowers().eval(), Inputs.of((any_inputs.ids(50, 6), any_inputs.ids(70, 6)))
    what = Architecture.of(of_nets("TwoTowers"), inputs)
    save_network(tmp_path, network, PrunedArchitecture.of(network, {}, what, PruningPolicy(), {}))
    assert document(tmp_path, "--trust-code", "--batch", "4", *QUICK)["inputs"] == "int64(4,), int64(4,)"
    given = document(tmp_path, "--trust-code", "--example", of_nets("PAIR"), *QUICK)
    assert given["inputs"] == "int64(1,), int64(1,)"


@pytest.mark.parametrize("besides", [("--input", "1x8x8"), ("--data", "digits")])
def test_inputs_are_given_once(besides: tuple[str, str]) -> None:
    refused = run(of_nets("Encoder"), "--example", of_nets("PASSAGES"), *besides)
    assert refused.exit_code == 2
    assert "--example gives the inputs themselves" in refused.output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("resnet21",), "no model named 'resnet21'; did you mean"),
        (("resnet20", "--latency-runtime", "torsch"), "did you mean 'torch'"),
        (("resnet20", "--input", "3xx3"), "CxHxW"),
        (("resnet20", "--input", "1x8x8", "--classes", "3", "--latency-runtime", "cuda", "--device", "cpu"), "is cuda"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], part: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert part in result.output


def test_a_runtime_that_fails_is_told_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise ExportError("no such operator")

    real = profiling.engine_of
    monkeypatch.setattr(profiling, "engine_of", lambda name: real(name) if name == "torch" else Engine(name, fail))
    monkeypatch.setattr(profiling, "missing_packages", tuple)
    shape = ("resnet20", "--input", "1x8x8", "--classes", "3", "--device", "cpu")
    found = document(*shape)
    assert found["latency"]["onnxruntime"] == {"failed": "no such operator"}
    assert found["latency"]["torch"]["stderr_ms"] >= 0
    assert "not timed: no such operator" in run(*shape).stdout
    assert run(*shape, "--latency-runtime", "compile").exit_code == 1
    assert torch.get_num_threads() >= 1
