"""Pruned networks share the dense one's export; what does not hold in it is exported for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import ExportError
from autoprune.export import onnx_derivation as derived
from autoprune.export.onnx import missing_packages
from autoprune.export.onnx_derivation import OnnxConverter

pytestmark = pytest.mark.skipif(bool(missing_packages()), reason=f"not installed: {', '.join(missing_packages())}")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Branch(nn.Module):
    """Add to what passes through: a pointwise convolution, a norm and a depthwise convolution."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.norm = nn.Conv2d(width, inner, 1), nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, groups=inner, padding=1)
        self.back = nn.Conv2d(inner, width, 1)
        nn.init.uniform_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.back(self.depthwise(self.norm(self.widen(x)).relu()))).relu()


class Net(nn.Module):
    def __init__(self, width: int, inner: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.blocks = nn.Sequential(*(Branch(width, each) if each else nn.Identity() for each in inner))
        self.fc = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x).relu()).mean((2, 3)))


class Reads(nn.Module):
    """Read words; the width is written into the reshape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words, self.fc, self.width = nn.Embedding(7, width), nn.Linear(width, 2), width

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.words(x).reshape(-1, 3, self.width).sum(1))


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@cache
def dense() -> OnnxConverter:
    converter = OnnxConverter(torch.zeros(2, 3, 8, 8))
    check(converter, Net(8, (6, 6, 6)), IMAGES)
    assert (converter.exported, converter.derived) == (1, 0)
    return converter


def check(converter: OnnxConverter, network: nn.Module, inputs: Tensor) -> None:
    network.eval()
    with torch.no_grad():
        expected = network(inputs)
    torch.testing.assert_close(converter.session(network)(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        lambda: Net(8, (6, 6, 6)),
        lambda: Net(5, (6, 3, 2)),
        lambda: Net(8, (6, 0, 6)),
        lambda: Net(5, (0, 3, 0)),
        lambda: Net(3, (0, 0, 0)),
        lambda: Net(7, (2, 2, 2)).to(memory_format=torch.channels_last),
    ],
    ids=["other weights", "widths", "a block dropped", "both", "no block left", "channels last"],
)
def test_a_pruned_network_takes_the_dense_ones_file(network: Callable[[], nn.Module]) -> None:
    converter = dense()
    before = converter.exported, converter.derived
    check(converter, network(), IMAGES)
    assert (converter.exported, converter.derived) == (before[0], before[1] + 1)


def test_a_width_written_into_an_operator_is_seen_and_the_network_exported_for_itself() -> None:
    words = torch.tensor([[1, 2, 3], [4, 5, 6]])
    converter = OnnxConverter(torch.zeros(2, 3, dtype=torch.long))
    check(converter, Reads(4), words)
    check(converter, Reads(2), words)
    assert (converter.exported, converter.derived) == (2, 0)
    check(converter, Reads(4), words)
    assert (converter.exported, converter.derived) == (2, 1)


class TestKept:
    """The first one's file, kept for other processes."""

    def test_another_process_derives_all_from_it(self, tmp_path: Path) -> None:
        kept = tmp_path / "template.onnx"
        first = OnnxConverter(torch.zeros(2, 3, 8, 8), kept)
        check(first, Net(8, (6, 6, 6)), IMAGES)
        other = OnnxConverter(torch.zeros(2, 3, 8, 8), kept)
        for network in (Net(8, (6, 6, 6)), Net(5, (0, 3, 0))):
            check(other, network, IMAGES)
        assert (first.exported, other.exported, other.derived) == (1, 0, 2)
        assert str(Path(__file__).parent).encode() not in kept.read_bytes()

    @pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "damaged", "of another network"])
    def test_what_does_not_hold_is_replaced(self, tmp_path: Path, content: bytes | None) -> None:
        kept = tmp_path / "template.onnx"
        if content is None:
            check(OnnxConverter(torch.zeros(2, 3, dtype=torch.long), kept), Reads(4), torch.tensor([[1, 2, 3]]))
        else:
            kept.write_bytes(content)
        converter = OnnxConverter(torch.zeros(2, 3, 8, 8), kept)
        check(converter, Net(8, (6, 6, 6)), IMAGES)
        check(converter, Net(5, (6, 3, 2)), IMAGES)
        assert (converter.exported, converter.derived) == (1, 1)
        again = OnnxConverter(torch.zeros(2, 3, 8, 8), kept)
        check(again, Net(5, (6, 3, 2)), IMAGES)
        assert (again.exported, again.derived) == (0, 1)

    def test_a_place_that_cannot_be_written_is_done_without(self, tmp_path: Path) -> None:
        converter = OnnxConverter(torch.zeros(2, 3, 8, 8), tmp_path / "missing" / "template.onnx")
        check(converter, Net(8, (6, 6, 6)), IMAGES)
        assert converter.exported == 1


def test_answers_that_differ_from_pytorch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a network that draws random numbers do, or those of a fault in the exporter."""
    first = dense()._first
    monkeypatch.setattr(derived, "onnx_model", lambda *_, **__: first)
    torch.manual_seed(1)  # other weights than the first one's
    with pytest.raises(ExportError, match="answers otherwise than in PyTorch, by"):
        OnnxConverter(torch.zeros(2, 3, 8, 8)).session(Net(8, (6, 6, 6)).eval())
