"""A network converted to ONNX answers as PyTorch does, for any number of examples, and what cannot be is told."""

from __future__ import annotations

import logging
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export import onnx
from autoprune.export.onnx import OnnxSession, missing_packages, onnx_bytes
from autoprune.testing import ExampleNetwork

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")


@cache
def example() -> tuple[nn.Module, bytes]:
    network = ExampleNetwork().eval()
    return network, onnx_bytes(network, torch.rand(1, 1, 8, 8))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_converted_network_answers_as_in_pytorch_for_any_number_of_examples(count: int) -> None:
    network, model = example()
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        expected = network(images)
    answers = OnnxSession(model, threads=1)(images)
    assert answers.shape == (count, 3)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)


def test_conversion_says_nothing_and_does_not_touch_the_network(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    network = ExampleNetwork().to(memory_format=torch.channels_last)
    network.head.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    level = logging.getLogger("onnxscript").level
    assert onnx_bytes(network, torch.rand(3, 1, 8, 8)) == example()[1]
    assert network.training
    assert not network.head.training
    assert network.outer.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert logging.getLogger("onnxscript").level == level
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


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


class FixesItsBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(int(x.shape[0]), -1) + torch.zeros(2, 1)


class AnswersTwo(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x - 1


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Branches(), "data-dependent|unbacked"),
        (FixesItsBatch(), "2"),
        (AnswersTwo(), "answers 2 tensors; expected one"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_cannot_be_converted_is_told_with_the_reason(network: nn.Module, words: str) -> None:
    with pytest.raises(ExportError, match=words) as found:
        onnx_bytes(network, torch.rand(1, 4))
    assert len(str(found.value)) < 600


def test_a_damaged_file_is_told() -> None:
    with pytest.raises(ExportError, match="ONNX Runtime does not take the file"):
        OnnxSession(example()[1][:100])


def test_missing_packages_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    model = example()[1]
    monkeypatch.setattr(onnx, "find_spec", lambda name: None)
    assert missing_packages() == ("onnx", "onnxscript", "onnxruntime")
    with pytest.raises(ExportError, match=r"ONNX needs onnx and onnxscript, .*pip install 'autoprune\[onnx\]'"):
        onnx_bytes(nn.Identity(), torch.rand(1, 4))
    with pytest.raises(ExportError, match="ONNX needs onnxruntime"):
        OnnxSession(model)
