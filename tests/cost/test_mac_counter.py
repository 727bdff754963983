"""Costs by hand on one layer, pinned on known networks, and who does the work."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
from cut_networks import CUT_CASES, really
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo

from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel, state_bytes
from autoprune.cost.layer_table import layer_costs
from autoprune.cost.mac_counter import count_macs, record_usage
from autoprune.models.cifar_resnet import resnet20, resnet32, resnet44, resnet56

IMAGE = torch.zeros(1, 3, 32, 32)


def closed_form(network: nn.Module, example: Tensor) -> tuple[int, int, int]:
    """Return the closed form's MACs, parameters and bytes of a network that is not cut."""
    return CostModel(network, {}, {}, example).count(ChannelCounts())


@pytest.mark.parametrize(
    ("build", "mmacs", "params"),
    [(resnet20, 40.81, 269_722), (resnet32, 69.12, 464_154), (resnet44, 97.44, 658_586), (resnet56, 125.75, 853_018)],
)
def test_cifar_resnets_cost_what_papers_say(build: Callable[[], nn.Module], mmacs: float, params: int) -> None:
    """Papers count shortcuts that pad; ours project, by two convolutions with a norm each."""
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    macs, found, _ = closed_form(build(), IMAGE)
    assert (round(macs / 1e6, 2), found) == (mmacs, params + projections)


def test_resnet20_costs_what_its_layers_add_up_to() -> None:
    stage1 = 32 * 32 * 9 * 16 * (3 + 6 * 16)
    stage2 = 16 * 16 * (9 * 32 * (16 + 5 * 32) + 16 * 32)
    stage3 = 8 * 8 * (9 * 64 * (32 + 5 * 64) + 32 * 64)
    assert closed_form(resnet20(), IMAGE)[0] == stage1 + stage2 + stage3 + 64 * 10


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "params"),
    [
        (nn.Conv2d(3, 8, 3), (3, 10, 10), 8 * 3 * 9 * 64, 8 * 3 * 9 + 8),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (3, 10, 10), 8 * 3 * 9 * 25, 8 * 3 * 9),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 10, 10), 6 * 9 * 100, 6 * 9 + 6),
        (nn.Conv2d(6, 12, 1, groups=3, bias=False), (6, 5, 5), 12 * 2 * 25, 12 * 2),
        (nn.Conv1d(4, 5, 3), (4, 20), 5 * 4 * 3 * 18, 5 * 4 * 3 + 5),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 3 * 2 * 8 * 27, 3 * 2 * 8 + 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 * 25, 4 * 6 * 9 + 6),
        (nn.Linear(20, 5), (20,), 20 * 5, 20 * 5 + 5),
        (nn.Linear(20, 5, bias=False), (7, 20), 7 * 20 * 5, 20 * 5),
        (nn.BatchNorm2d(6), (6, 4, 4), 0, 12),
        (nn.BatchNorm2d(6, affine=False), (6, 4, 4), 0, 0),
        (nn.LSTM(3, 5, batch_first=True), (7, 3), 7 * 20 * 8, 20 * 8 + 40),
        (nn.GRU(3, 5, batch_first=True, bidirectional=True), (7, 3), 7 * 2 * 15 * 8, 2 * (15 * 8 + 30)),
        (nn.RNN(3, 5, 2, batch_first=True, bias=False), (7, 3), 7 * (5 * 8 + 5 * 10), 5 * 8 + 5 * 10),
        (nn.LSTMCell(3, 5), (3,), 20 * 8, 20 * 8 + 40),
        (
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
            (5, 8),
            5 * 448 + 2 * 5 * 5 * 8,
            216 + 72 + 108 + 104 + 32,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_one_layer_costs_what_the_hand_computes(
    layer: nn.Module, shape: tuple[int, ...], macs: int, params: int
) -> None:
    example = torch.zeros(2, *shape)
    assert closed_form(layer, example)[:2] == (macs, params)
    assert count_macs(layer, example) == macs


class NotBatched(nn.Module):
    """A recurrent layer that runs on a single sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[0])[0]


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_without_a_batch_count_too(kind: type[nn.RNNBase], gates: int) -> None:
    network, example = NotBatched(kind(3, 5)), torch.zeros(1, 7, 3)
    assert closed_form(network, example)[0] == count_macs(network, example) == 7 * gates * 5 * 8


ZOO: Mapping[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: zoo.resnet18(num_classes=7),
    "mobilenet_v3_small": lambda: zoo.mobilenet_v3_small(num_classes=7),
    "densenet121": lambda: zoo.densenet121(num_classes=7),
    "vit": lambda: zoo.VisionTransformer(64, 16, 2, 4, 32, 64, num_classes=7),
    "swin_t": lambda: zoo.swin_t(num_classes=7),
    "convnext_tiny": lambda: zoo.convnext_tiny(num_classes=7),
}


@pytest.mark.parametrize("name", ZOO)
def test_known_networks_cost_what_pytorch_counts(name: str) -> None:
    torch.manual_seed(0)
    network, example = ZOO[name]().eval(), torch.randn(1, 3, 64, 64)
    model = CostModel(network, {}, {}, example)
    assert model.count(ChannelCounts()) == really(network, example)
    assert count_macs(network, example) == model.count(ChannelCounts())[0] == sum(layer.macs for layer in model.layers)


def test_layers_are_listed_with_their_widths() -> None:
    def rows(name: str) -> list[tuple[str, str, int, int, int]]:
        case = CUT_CASES[name]
        layers = CostModel(case.build(**case.channels), {}, {}, case.example).layers
        return [(layer.name, layer.kind, layer.inputs, layer.outputs, layer.macs) for layer in layers]

    assert rows("grouped")[1] == ("1", "Conv2d", 2, 18, 18 * 2 * 9 * 49)
    assert rows("lstm")[1] == ("1.layer", "LSTM", 6, 14, 8 * 2 * 28 * (6 + 7 + 14 + 7))
    assert rows("attention")[:2] == [
        ("attend", "MultiheadAttention", 12, 12, 5 * 36 * 12 + 2 * 5 * 5 * 12),
        ("attend.out_proj", "NonDynamicallyQuantizableLinear", 12, 12, 5 * 144),
    ]
    assert rows("bare") == [("", "Bare", 0, 0, 4 * (6 * 5 + 25 + 15))]


def test_bytes_are_four_for_each_weight_and_statistic_and_eight_for_each_counter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
    assert closed_form(network, IMAGE)[2] == 4 * (18 + 6 + 2 * 6 + 2 * 6) + 8
    assert state_bytes(network) == closed_form(network, IMAGE)[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_numbers_keep_their_size_and_the_input_follows(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).to(dtype)
    assert closed_form(network, torch.zeros(1, 4)) == (16, 28, 28 * dtype.itemsize)


def test_a_layer_that_runs_twice_costs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model = CostModel(Twice(), {}, {}, torch.zeros(1, 4))
    assert model.count(ChannelCounts())[:2] == (32, 16)
    assert [(layer.name, layer.kind, layer.macs) for layer in model.layers] == [("layer", "Linear", 32)]


def test_shared_weights_are_counted_and_stored_once_and_listed_where_they_are_read() -> None:
    network = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    network[1].weight = network[0].weight
    model = CostModel(network, {}, {}, torch.zeros(1, 3, dtype=torch.int64))
    assert model.count(ChannelCounts()) == (72, 24, 96)
    assert [layer.name for layer in model.layers] == ["1"]
    assert record_usage(network, torch.zeros(1, 3, dtype=torch.int64)).of_parameter("0.weight") == 72


def test_products_of_activations_belong_to_their_module_and_are_said_to_be_constant() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1000, 1000)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return x @ x.transpose(1, 2)

    network, example = nn.Sequential(Attends()), torch.zeros(1, 5, 1000)
    usage = record_usage(network, example)
    assert usage.weights == {("0.layer.weight", "0.layer"): 5 * 1000 * 1000}
    assert usage.products == {"0": 5 * 5 * 1000}
    model = CostModel(network, {}, {}, example)
    assert model.uncounted[1] == "0.03 MFLOPs of products between activations are taken as constant"


def test_parts_and_views_of_a_parameter_are_the_parameter() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.zeros(8, 6)), nn.Parameter(torch.zeros(2, 3, 5))

        def forward(self, x: Tensor) -> Tensor:
            upper, lower = self.weight.chunk(2)
            x = x @ upper.T + x[:, :2].repeat(1, 2, 1) @ lower.detach().T
            return torch.einsum(
                "nhti,hio->nhto", x.unflatten(-1, (2, 2)).movedim(2, 1)[..., :1].repeat(1, 1, 1, 3), self.other
            )

    usage = record_usage(Parts(), torch.zeros(1, 4, 6))
    assert usage.weights == {("weight", ""): 2 * 4 * 24, ("other", ""): 4 * 30}
    assert not usage.products


def test_costs_are_for_one_input_whatever_the_batch() -> None:
    network = resnet20()
    assert closed_form(network, IMAGE) == closed_form(network, IMAGE.repeat(4, 1, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_and_pytorch_alone(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)).train(training)
    former = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    CostModel(network, {}, {}, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, former[name]) for name, tensor in network.state_dict().items())
    assert network.training is network[1].training is training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_nothing_keeps_a_counted_network_alive() -> None:
    gc.disable()
    try:
        network = nn.Sequential(nn.Conv2d(3, 6, 1))
        seen = weakref.ref(network[0])
        model = CostModel(network, {}, {}, IMAGE)
        del network
        assert seen() is None
        assert model.count(ChannelCounts())[1] == 24
    finally:
        gc.enable()


class Computed(nn.Module):
    """Two matrices of one form, each computed on from before it is used, and a fixed one beside a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Parameter(torch.randn(8, 8))
        self.register_buffer("near", torch.rand(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, F.normalize(self.first.weight)) @ F.normalize(self.second).t()
        return torch.bmm(self.near.softmax(0).expand(len(x), 5, 5), x)


def test_a_weight_that_was_computed_counts_for_what_it_was_computed_from() -> None:
    usage = record_usage(Computed(), torch.zeros(2, 5, 8))
    assert {path: macs for (path, _), macs in usage.weights.items()} == {
        "first.weight": 320,
        "second": 320,
        "near": 200,
    }
    assert not usage.products


def test_a_fixed_matrix_beside_a_parameter_has_a_place_in_the_table() -> None:
    network = Computed()
    table = layer_costs(network, record_usage(network, torch.zeros(2, 5, 8)))
    assert {layer.name: layer.macs for layer in table} == {"first": 320, "": 520}
