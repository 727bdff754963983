"""Networks that are good without any training, and examples of three kinds, to be quantised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.export.examples import Examples
from autoprune.models.calling.inputs import Inputs


def stripes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return horizontal stripes, vertical stripes and bright middles under noise, and which each is."""
    labels = torch.arange(count) % 3
    patterns = torch.zeros(3, 1, 8, 8)
    patterns[0, :, ::2], patterns[1, :, :, ::2], patterns[2, :, 2:6, 2:6] = 1, 1, 1
    return patterns[labels] + torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), labels


class Net(nn.Module):
    """Random convolutions and a linear layer that least squares fits to the labels: good without any training."""

    def __init__(self, width: int, *, outlier: bool = False, blind: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.more = nn.ModuleList([nn.Conv2d(width, width, 1)] if outlier else [])
        self.head = nn.Linear(16 * width, 3)
        if outlier:  # large weights that only ever multiply zeros, but make the eight bits of all others coarse
            with torch.no_grad():
                self.first.weight[0], self.first.bias[0] = 0, 0  # type: ignore[index]
                self.second.weight[:, 0] = 1e4
        images, labels = stripes(192, 0)
        with torch.no_grad():
            if blind:
                self.second.weight[0], self.second.bias[0] = 0, 0  # type: ignore[index]
            found = torch.linalg.lstsq(self.features(images), torch.eye(3)[labels]).solution
            self.head.weight.copy_(found.T)
            self.head.bias.zero_()
            if blind:  # a channel of a million that the head ignores: eight bits for all leave nothing of the others
                self.head.weight[:, :16] = 0
                self.second.bias[0] = 1e6  # type: ignore[index]
        self.eval()

    def features(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        for layer in self.more:
            x = layer(x).relu()
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def onnx_of(net: Net) -> bytes:
    """Return its ONNX file, made by hand: PyTorch's exporter takes seconds for each network."""
    from onnx import TensorProto, helper, numpy_helper

    convolutions = {"first": net.first, "second": net.second, **{f"more.{i}": one for i, one in enumerate(net.more)}}
    nodes, last = [], "input"
    for name, layer in convolutions.items():
        size, stride, padding = (list(each) for each in (layer.kernel_size, layer.stride, layer.padding))
        reads = [last, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", reads, [name], kernel_shape=size, strides=stride, pads=padding * 2))
        nodes.append(helper.make_node("Relu", [name], [last := f"{name}.relu"]))
    nodes.append(helper.make_node("Flatten", [last], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "head.weight", "head.bias"], ["output"], transB=1))
    stored = [numpy_helper.from_array(tensor.detach().numpy(), name) for name, tensor in net.named_parameters()]
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8]),
        helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3]),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def examples(training: int = 64) -> Examples:
    images, labels = stripes(96, 1)
    train, _ = stripes(training, 0)

    def take(size: int, limit: int) -> Iterator[tuple[Inputs, Any]]:
        for start in range(0, min(limit, len(images)), size):
            yield Inputs.of(images[start : start + size]), labels[start : start + size]

    def calibration(size: int, limit: int) -> Iterator[Inputs]:
        yield from map(Inputs.of, train[:limit].split(size))

    return Examples(
        "validation examples",
        Inputs.of(images[:1]),
        take,
        score=lambda output, wanted: output.argmax(1) == wanted,
        calibration=calibration,
        names_classes=True,
    )
