"""Formats keep one contract, our own and those of plug-ins; one that crashes takes nothing down."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import autoprune.core.registry
from autoprune.core.export_formats import Wanted, wanted_formats
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import UnknownNameError, UsageError
from autoprune.export.convert import export_network
from autoprune.export.examples import Examples, random_examples
from autoprune.export.export_result import ExportedFile, FailedExport, read_export
from autoprune.export.formats import ExportFormat
from autoprune.export.onnx import missing_packages
from autoprune.export.openvino import is_missing
from autoprune.testing import check_export

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
needs_openvino = pytest.mark.skipif(is_missing(), reason="OpenVINO is not installed (the extra openvino)")
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely with PyTorch loaded")
QUICK = TimingPlan(runtime="torch", blocks=5, calls=1)


@pytest.mark.parametrize(
    "name",
    [
        "pt2",
        pytest.param("onnx", marks=[needs_onnx, pytest.mark.long]),
        pytest.param("openvino", marks=[needs_onnx, needs_openvino]),
    ],
)
def test_a_format_keeps_its_contract(name: str, tmp_path: Path) -> None:
    check_export(name, tmp_path)


# --- a plug-in: a linear layer in NumPy's own format


def export(network: nn.Module, example: object, folder: Path) -> None:
    assert isinstance(network, nn.Linear)
    np.savez(folder / "linear.npz", weight=network.weight.detach().numpy(), bias=network.bias.detach().numpy())


def opened(folder: Path, threads: int) -> Callable[..., object]:
    with np.load(folder / "linear.npz") as stored:
        weight, bias = stored["weight"], stored["bias"]
    return lambda x: torch.as_tensor(x.numpy() @ weight.T + bias)


NUMPY = ExportFormat(export, opened, "linear.npz", "numpy", facts=lambda folder: {"layers": 1})


def linear(bias: float = 0.0) -> nn.Linear:
    made = nn.Linear(4, 3).eval()
    nn.init.constant_(made.bias, bias)
    return made


def checked(form: ExportFormat, folder: Path) -> None:
    check_export(form, folder, linear(), torch.rand(3, 4))


def test_a_plug_in_that_keeps_the_contract_passes(tmp_path: Path) -> None:
    checked(NUMPY, tmp_path)


def wrong(network: nn.Module, example: object, folder: Path) -> None:
    export(linear(1.0), example, folder)


def outside(network: nn.Module, example: object, folder: Path) -> None:
    export(network, example, folder)
    (folder.parent / "stray").touch()


def trains(network: nn.Module, example: object, folder: Path) -> None:
    export(network, example, folder)
    network.train()


def only_two(folder: Path, threads: int) -> Callable[..., object]:
    def answer(x: Tensor) -> object:
        if len(x) != 2:
            raise ValueError("expected two")
        return opened(folder, threads)(x)

    return answer


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (replace(NUMPY, export=wrong), "answers otherwise than PyTorch"),
        (replace(NUMPY, export=outside), "writes stray outside of the folder"),
        (replace(NUMPY, export=trains), "changes the network: it is in training mode"),
        (replace(NUMPY, beside=("labels.txt",)), "does not write labels.txt, which it names"),
        (replace(NUMPY, open=only_two), "does not take 1 examples: expected two"),
        (replace(NUMPY, open=lambda folder, threads: lambda x: x), "answers with tensors of shapes"),
        (replace(NUMPY, export=lambda *_: 1 / 0), "export fails with ZeroDivisionError"),
    ],
)
def test_a_plug_in_that_breaks_the_contract_is_told_how(form: ExportFormat, said: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=said):
        checked(form, tmp_path)


# --- as an entry point


@dataclass
class Point:
    """Stand for an entry point of an installed package."""

    name: str
    found: Any
    value: str = "mine.exports:numpy"

    def load(self) -> Any:
        return self.found


def install(monkeypatch: pytest.MonkeyPatch, **plugins: Any) -> None:
    points = [Point(name.replace("_", "-"), found) for name, found in plugins.items()]
    monkeypatch.setattr(
        autoprune.core.registry, "entry_points", lambda group: points if group == "autoprune.exports" else []
    )


def exported(folder: Path, *names: str) -> tuple[dict[str, Any], list[str]]:
    said = list[str]()
    examples: Examples = random_examples((4,), 0)
    found = export_network(folder, linear(), linear(), examples, Wanted(names), QUICK, said.append)
    return found, said


def crashes(network: nn.Module, example: object, folder: Path) -> None:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGSEGV)


def runs_and_crashes(folder: Path, threads: int) -> Callable[..., object]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return opened(folder, threads)


@needs_fork
def test_a_plug_in_is_delivered_in_a_folder_of_its_own_and_one_that_crashes_takes_nothing_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {"dies": replace(NUMPY, export=crashes), "dies-later": replace(NUMPY, open=runs_and_crashes)}
    other = {"wrong": replace(NUMPY, export=wrong), "no-format": export}
    install(monkeypatch, **bad, numpy=NUMPY, **other)
    assert wanted_formats("numpy,dies").formats == ("numpy", "dies")
    found, said = exported(tmp_path, "dies", "dies-later", "wrong", "no-format", "numpy")
    assert found["dies"] == FailedExport("exports/dies", "the plug-in 'dies' failed: it crashed (signal SIGSEGV)")
    assert found["dies-later"].failure == "the plug-in 'dies-later' failed: it crashed (signal SIGSEGV)"
    assert "differ from PyTorch's by up to" in found["wrong"].failure
    assert "expected an autoprune.export.formats.ExportFormat" in found["no-format"].failure
    assert isinstance(found["numpy"], ExportedFile)
    assert (found["numpy"].file, found["numpy"].runtime) == ("exports/numpy/linear.npz", "numpy")
    assert found["numpy"].facts == {"layers": 1}
    assert found["numpy"].latency.pruned_ms > 0
    assert read_export(found["numpy"].to_json()) == found["numpy"]
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["numpy"]
    assert sum("was not written" in line for line in said) == 4


def test_a_name_that_no_plug_in_has_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, numpy=NUMPY)
    with pytest.raises(UnknownNameError, match=r"did you mean 'numpy'\?; known: .*openvino"):
        wanted_formats("nunpy")


def test_openvino_that_is_not_installed_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.core.export_formats.find_spec", lambda name: None if name == "openvino" else name)
    with pytest.raises(UsageError, match=r"pip install 'autoprune\[openvino\]'"):
        wanted_formats("openvino")
