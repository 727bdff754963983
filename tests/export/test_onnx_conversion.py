"""A network converted to ONNX answers as PyTorch does, for any number of examples, or the error says why not."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export import onnx
from autoprune.export.onnx import OnnxSession, check_ends, missing_packages, onnx_bytes
from autoprune.testing import ExampleNetwork

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")


@cache
def example() -> tuple[nn.Module, bytes]:
    network = ExampleNetwork().to(memory_format=torch.channels_last)
    network.head.eval()
    return network, onnx_bytes(network, torch.rand(3, 1, 8, 8))


def test_conversion_says_nothing_and_does_not_touch_the_network(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger("onnxscript").level
    example.cache_clear()
    network, _ = example()
    assert network.training
    assert not network.head.training
    assert network.outer.weight.is_contiguous(memory_format=torch.channels_last)
    fresh = ExampleNetwork().state_dict()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in network.state_dict().items())
    assert logging.getLogger("onnxscript").level == level
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_converted_network_answers_as_in_pytorch_for_any_number_of_examples(count: int) -> None:
    _, model = example()
    network = ExampleNetwork().eval()
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        expected = network(images)
    answers = OnnxSession(model, threads=1)(images)
    assert answers.shape == (count, 3)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)


def test_a_file_names_its_input_and_output_and_no_path_of_this_machine() -> None:
    _, model = example()
    session = OnnxSession(model)._session
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("input", ["batch", 1, 8, 8])]
    assert [(one.name, one.shape) for one in session.get_outputs()] == [("output", ["batch", 3])]
    assert b".py" not in model


def test_a_session_runs_on_the_threads_it_was_given() -> None:
    options = OnnxSession(example()[1], threads=3)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_cannot_be_converted_is_told_with_the_reason() -> None:
    with pytest.raises(ExportError, match=r"cannot be converted to ONNX: .*data-dependent") as found:
        onnx_bytes(Branches(), torch.rand(1, 4))
    assert len(str(found.value)) < 600


@pytest.mark.parametrize(
    ("batches", "words"),
    [((2, 2), "for 2 examples at once only"), (("batch", 2), "for 2 examples"), (("batch", "batch"), None)],
)
def test_a_file_takes_any_number_of_examples_by_every_input(batches: tuple[int | str, ...], words: str) -> None:
    helper = pytest.importorskip("onnx.helper")
    inputs = [helper.make_tensor_value_info(f"input_{n}", 1, [batch, 4]) for n, batch in enumerate(batches)]
    model = helper.make_model(helper.make_graph([], "hand-made", inputs, []))
    with pytest.raises(ExportError, match=words) if words else nullcontext():
        check_ends(model)


def test_inputs_of_another_shape_are_told() -> None:
    with pytest.raises(ExportError, match=r"cannot run the file on inputs of shape \(1, 1, 9, 8, 1\)"):
        OnnxSession(example()[1])(torch.zeros(1, 1, 9, 8, 1))


def test_a_damaged_file_is_told() -> None:
    with pytest.raises(ExportError, match="ONNX Runtime does not take the file"):
        OnnxSession(example()[1][:100])


def test_missing_packages_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    model = example()[1]
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert missing_packages() == ("onnx", "onnxscript", "onnxruntime")
    with pytest.raises(ExportError, match=r"ONNX needs onnx and onnxscript, .*pip install onnx onnxscript"):
        onnx_bytes(nn.Identity(), torch.rand(1, 4))
    with pytest.raises(ExportError, match="ONNX needs onnxruntime"):
        OnnxSession(model)
