"""A network that was trained with the rounding of int8 is exported only where that is better beyond noise."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from int8_toys import Net, examples, onnx_of, stripes
from torch import nn

import autoprune.export.int8
from autoprune.core.export_formats import Int8Limit
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError
from autoprune.export.convert import FORMATS
from autoprune.export.cpu_flags import reduces_range
from autoprune.export.export_result import ExportedFile, Int8Training, read_export
from autoprune.export.int8 import export_int8
from autoprune.export.int8_trained import Int8Trained
from autoprune.training.fake_quantise import fake_quantised

QUICK = TimingPlan(runtime="torch", blocks=5, calls=1)

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


@pytest.fixture(autouse=True)
def conversion_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    form = replace(FORMATS["onnx"], convert=lambda network, example: onnx_of(network))  # type: ignore[arg-type]
    monkeypatch.setattr(autoprune.export.int8, "_FLOAT", form)


@pytest.fixture(scope="module")
def coarse() -> Net:
    """Return a network of whose second layer int8 leaves three values: a large weight makes its steps coarse."""
    net, (images, labels) = Net(8), stripes(192, 0)
    with torch.no_grad():
        net.first.weight[0], net.first.bias[0] = 0, 0  # type: ignore[index]
        net.second.weight[:, 0] = 10 if reduces_range() else 20  # seven bits or eight: three values either way
        net.head.weight.copy_(torch.linalg.lstsq(net.features(images), torch.eye(3)[labels]).solution.T)
    return net


def distilled(net: Net, steps: int = 100) -> Net:
    """Return a copy trained to answer as the network does."""
    twin = copy.deepcopy(net).train()
    optimizer = torch.optim.Adam(twin.parameters(), 3e-3)
    with fake_quantised(twin):
        for step in range(steps):
            images, _ = stripes(96, 100 + step)
            loss = (twin(images) - net(images).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return twin.eval()


def export(net: Net, trained: nn.Module | None, folder: Path, failure: str = "", **limits: float) -> Any:
    said: list[str] = []
    candidate = Int8Trained(trained, 0.25, 7.0, ("odd",), failure)
    limit = Int8Limit(limits.get("max_drop", 1.0))
    return export_int8(folder, net, Net(16), examples(), limit, QUICK, said.append, candidate), said


def test_a_network_that_loses_much_gains_and_is_kept(coarse: Net, tmp_path: Path) -> None:
    found, said = export(coarse, distilled(coarse), tmp_path)
    assert isinstance(found, ExportedFile)
    assert found.int8 is not None
    training = found.int8.training
    assert training is not None
    assert training.static_score < 0.9 < training.score == found.int8.score, "the file is the trained network"
    assert training.is_kept
    assert training.gain == pytest.approx(training.score - training.static_score)
    assert training.gain > 1.96 * training.gain_stderr > 0
    assert found.int8.float_score == 1.0, "float32 is still the finished network"
    assert (training.share, training.seconds, training.not_rounded) == (0.25, 7.0, ("odd",))
    assert any("is better in int8 beyond noise, and becomes int8" in line for line in said)
    assert read_export(found.to_json()) == found


def test_what_is_no_better_beyond_noise_changes_nothing(tmp_path: Path) -> None:
    net = Net(8)
    trained = copy.deepcopy(net)
    with torch.no_grad():
        trained.head.bias.add_(1e-3)
    (tmp_path / "one").mkdir()
    found, _ = export(net, trained, tmp_path / "one")
    assert found.int8.training is not None
    assert not found.int8.training.is_kept
    plain = export_int8(tmp_path, net, Net(16), examples(), Int8Limit(1.0), QUICK, lambda text: None)
    assert isinstance(plain, ExportedFile)
    assert plain.int8 is not None
    assert plain.int8.training is None
    assert "training" not in plain.to_json()["int8"]
    assert (tmp_path / "model.int8.onnx").read_bytes() == (tmp_path / "one/model.int8.onnx").read_bytes()


@pytest.mark.parametrize("failure", ["the loss is nan at step 3", ""])
def test_a_training_or_an_export_that_fails_leaves_the_finished_network(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, broken = Net(8), Net(8)

    def convert(network: Any, example: object) -> bytes:
        if network is broken:
            raise ExportError("it cannot be exported")
        return onnx_of(network)

    monkeypatch.setattr(autoprune.export.int8, "_FLOAT", replace(FORMATS["onnx"], convert=convert))
    found, said = export(net, None if failure else broken, tmp_path, failure)
    training = found.int8.training
    assert training == Int8Training(False, 0.25, 7.0, failure=failure or "it cannot be exported") or (
        math.isnan(training.score) and training.failure == (failure or "it cannot be exported")
    )
    assert found.int8.score > 0.9
    assert any("training with the rounding of int8 failed" in line for line in said)
    again = read_export(found.to_json())
    assert isinstance(again, ExportedFile)
    assert again.int8 is not None
    assert again.int8.training is not None
    assert (again.int8.training.failure, math.isnan(again.int8.training.score)) == (training.failure, True)
