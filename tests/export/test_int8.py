"""A network in int8: what is written is what was measured, and what cannot be good is said in a line."""

from __future__ import annotations

import functools
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from int8_toys import Net, examples, onnx_of, stripes
from torch import Tensor, nn

import autoprune.export.int8
import autoprune.export.int8_calibration
from autoprune.core.export_formats import Int8Limit, Wanted
from autoprune.core.metrics import ACCURACY, Metric
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import ExportError
from autoprune.export.convert import FORMATS
from autoprune.export.cpu_flags import cpu_flags
from autoprune.export.examples import Examples, random_examples
from autoprune.export.export_result import ExportedFile, FailedExport, read_export
from autoprune.export.int8 import export_int8
from autoprune.export.int8_calibration import CalibratedModel, calibrated
from autoprune.export.int8_quantise import quantised_here
from autoprune.export.int8_score import FloatScore, Int8Score, is_within
from autoprune.export.onnx import OnnxSession

QUICK = TimingPlan(runtime="torch", blocks=5, calls=1)
LIMIT = Int8Limit(0.02)

pytestmark = pytest.mark.usefixtures("process_is_left_as_it_was")


@pytest.fixture(autouse=True)
def conversion_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    form = replace(FORMATS["onnx"], convert=lambda network, example: onnx_of(network))  # type: ignore[arg-type]
    monkeypatch.setattr(autoprune.export.int8, "_FLOAT", form)


@functools.cache
def dense() -> Net:
    return Net(16)


@pytest.fixture(scope="module")
def net() -> Net:
    return Net(8)


@pytest.fixture(scope="module")
def model(net: Net) -> CalibratedModel:
    given = onnx_of(net)
    session = OnnxSession(given)
    return calibrated(given, [one.run(session.feed) for one in examples().calibration(32, 64)])  # type: ignore[misc]


def export(network: nn.Module, folder: Path, data: Examples | None = None, limit: Int8Limit = LIMIT) -> Any:
    said: list[str] = []
    found = export_int8(folder, network, dense(), data or examples(), limit, QUICK, said.append)
    return found, said


def weights_of(content: bytes) -> dict[str, Any]:
    """Return the stored tensors that are dequantised, by name."""
    graph = onnx.load_model_from_string(content).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return {name: array for name, array in stored.items() if name in read and array.ndim > 1}


def test_the_file_is_as_good_as_its_facts_say(net: Net, tmp_path: Path) -> None:
    """The oracle is ONNX Runtime itself, over all of validation."""
    import onnxruntime

    found, _ = export(net, tmp_path)
    assert isinstance(found, ExportedFile)
    session = onnxruntime.InferenceSession(tmp_path / "model.int8.onnx", providers=["CPUExecutionProvider"])
    images, labels = stripes(96, 1)
    answers = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    with torch.no_grad():
        expected = net(images).numpy()
    int8 = found.int8
    assert int8 is not None
    assert int8.score == float((answers.argmax(1) == labels.numpy()).mean())
    assert int8.float_score == float((expected.argmax(1) == labels.numpy()).mean()) > 0.9
    assert int8.gain == pytest.approx(int8.score - int8.float_score)
    assert found.agreement.max_difference == pytest.approx(float(np.abs(answers - expected).max()), rel=1e-4)
    assert found.agreement.max_difference > 0, "int8 rounds"
    assert (int8.layers, int8.in_float, int8.calibration_examples, int8.examples) == (3, (), 64, 96)
    assert min(int8.against_float.ratio, found.latency.ratio, int8.against_dense_int8.ratio) > 0  # type: ignore[union-attr]
    assert read_export(found.to_json()) == found


def test_it_is_what_quantize_static_makes(net: Net, model: CalibratedModel, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    given = tmp_path / "given.onnx"
    given.write_bytes(model.model)
    session = OnnxSession(model.model)
    feeds = iter([one.run(session.feed) for one in examples().calibration(32, 64)])  # type: ignore[misc]
    reader = type("Reader", (), {"get_next": lambda self: next(feeds, None)})()
    quantize_static(
        given,
        tmp_path / "theirs.onnx",
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    images, _ = stripes(96, 1)
    ours, theirs = quantised_here(model, reduce_range=False), (tmp_path / "theirs.onnx").read_bytes()
    assert torch.equal(OnnxSession(ours)(images), OnnxSession(theirs)(images))  # type: ignore[arg-type]
    assert {name: array.dtype for name, array in weights_of(ours).items()} == {
        name: np.dtype("int8") for name in weights_of(theirs)
    }


def test_without_vnni_weights_have_seven_bits(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoprune.export.int8, "reduces_range", lambda: True)
    found, _ = export(net, tmp_path)
    largest = [
        int(np.abs(array.astype(int)).max()) for array in weights_of((tmp_path / found.file).read_bytes()).values()
    ]
    assert len(largest) == 3
    assert max(largest) <= 64
    assert found.int8.reduce_range


def test_the_flags_of_a_processor_are_read_if_the_system_tells_them(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\nflags : other\n")
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_flags(tmp_path / "nothing") == frozenset()


def test_ten_training_examples_are_enough_to_try(net: Net, tmp_path: Path) -> None:
    found, _ = export(net, tmp_path, examples(training=10))
    assert found.int8.calibration_examples == 10


def test_without_training_examples_or_a_score_it_is_not_written(net: Net, tmp_path: Path) -> None:
    none, said = export(net, tmp_path, replace(examples(), calibration=None))
    assert "calibrated on training examples, and there are none" in none.failure
    assert said[-1] == f"model.int8.onnx was not written: {none.failure}"
    noise, _ = export(net, tmp_path, random_examples((1, 8, 8), 0))
    assert "what int8 costs cannot be measured on random inputs" in noise.failure
    assert not list(tmp_path.iterdir())


def test_answers_that_int8_makes_all_the_same_are_said_in_a_line(tmp_path: Path) -> None:
    found, said = export(Net(8, blind=True), tmp_path)
    assert isinstance(found, FailedExport)
    assert "the answers are the same for every example" in found.failure
    assert "\n" not in found.failure
    assert any("leaving first in float32" in line for line in said)
    assert not list(tmp_path.iterdir())


def test_numbers_that_are_none_on_training_examples_are_said(model: CalibratedModel) -> None:
    feed = {"input": np.full((2, 1, 8, 8), np.nan, dtype=np.float32)}
    with pytest.raises(ExportError, match="is NaN or infinite on training examples"):
        calibrated(model.model, [feed])


def test_a_crash_of_the_quantiser_leaves_the_rest(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoprune.export.int8_calibration, "prepared", lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    found, _ = export(net, tmp_path)
    assert "it crashed (signal SIGSEGV)" in found.failure


def test_layers_stay_in_float32_until_the_loss_is_within_the_limit(tmp_path: Path) -> None:
    """The ends first, and then the one that is to blame."""
    found, said = export(Net(8, outlier=True), tmp_path)
    assert isinstance(found, ExportedFile), found
    assert found.int8 is not None
    assert found.int8.in_float == ("first", "head", "second")
    assert found.int8.layers == 4
    assert found.int8.gain >= -LIMIT.max_drop
    assert [line.partition("; ")[2] for line in said[1:]] == [
        f"leaving {name} in float32" for name in found.int8.in_float
    ]
    assert len(weights_of((tmp_path / found.file).read_bytes())) == 1


@pytest.mark.parametrize(
    ("score", "quality", "limit", "within"),
    [
        (Int8Score(0.89, -0.01, 0.01, 9), ACCURACY, Int8Limit(0.01), True),
        (Int8Score(0.88, -0.02, 0.01, 9), ACCURACY, Int8Limit(0.01), False),
        (Int8Score(0.89, -0.01, 0.01, 9), ACCURACY, Int8Limit(0.01, worst=0.895), False),
        (Int8Score(0.89, -0.01, 0.01, 9), ACCURACY, Int8Limit(0.01, worst=0.95), True),  # not kept in float32 either
        (Int8Score(0.92, -0.02, 0.01, 9), Metric("rmse"), Int8Limit(0.05), True),
        (Int8Score(0.97, -0.07, 0.01, 9), Metric("rmse"), Int8Limit(0.05), False),
        (Int8Score(math.nan, -math.inf, math.nan, 9, "NaN or infinite"), ACCURACY, Int8Limit(1.0), False),
    ],
)
def test_how_much_may_be_lost(score: Int8Score, quality: Metric, limit: Int8Limit, within: bool) -> None:
    assert is_within(score, 0.9, quality, limit) is within


def test_a_limit_comes_back_from_a_card() -> None:
    wanted = Wanted(("onnx", "onnx-int8"), is_explicit=True, int8=Int8Limit(0.02, 0.9))
    assert Wanted.from_json(wanted.to_json()) == wanted
    assert Wanted.from_json({"formats": ["onnx"], "is_explicit": False, "note": ""}) == Wanted(("onnx",))


def test_answers_in_a_structure_are_scored_like_a_tensor() -> None:
    data = examples()
    net, alone = Net(8), FloatScore.of(Net(8), data)

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": net(x)}

    named = replace(data, score=lambda output, wanted: output["logits"].argmax(1) == wanted)
    reference = FloatScore.of(Named(), named)
    assert reference.value == alone.value
    assert reference.judged(net).gain == 0
