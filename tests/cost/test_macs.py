"""Costs by hand on one layer, pinned on known networks, and equal to the count on networks really pruned."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as zoo

from autoprune.cost.macs import CostModel, count_macs, layer_costs, measure_network, state_bytes
from autoprune.pruning.groups import find_groups
from autoprune.pruning.prune import Pruner
from autoprune.space import SearchSpace
from autoprune.training.models import resnet20, resnet32, resnet44, resnet56

IMAGE = torch.zeros(1, 3, 32, 32)


def closed_form(network: nn.Module, example: Tensor) -> tuple[int, int, int]:
    """Return the closed form's MACs, parameters and bytes of a network that is not cut."""
    return CostModel(network, [], example).count({})


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
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 * 25, 4 * 6 * 9 + 6),
        (nn.Linear(20, 5), (20,), 20 * 5, 20 * 5 + 5),
        (nn.Linear(20, 5, bias=False), (7, 20), 7 * 20 * 5, 20 * 5),
        (nn.BatchNorm2d(6), (6, 4, 4), 0, 12),
        (nn.BatchNorm2d(6, affine=False), (6, 4, 4), 0, 0),
    ],
    ids=str,
)
def test_one_layer_costs_what_the_hand_computes(
    layer: nn.Module, shape: tuple[int, ...], macs: int, params: int
) -> None:
    example = torch.zeros(2, *shape)
    assert closed_form(layer, example)[:2] == (macs, params)
    assert count_macs(layer, example) == macs


def test_bytes_are_four_for_each_weight_and_statistic_and_eight_for_each_counter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6))
    assert closed_form(network, IMAGE)[2] == 4 * (18 + 6 + 2 * 6 + 2 * 6) + 8
    assert state_bytes(network) == closed_form(network, IMAGE)[2]


def test_a_layer_that_runs_twice_costs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    assert closed_form(Twice(), torch.zeros(1, 4))[:2] == (32, 16)
    assert [(cost.name, cost.kind, cost.macs) for cost in layer_costs(Twice(), torch.zeros(1, 4))] == [
        ("layer", "Linear", 32)
    ]


def test_shared_weights_are_counted_and_stored_once() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    network[1].weight = network[0].weight
    assert closed_form(network, torch.zeros(1, 4)) == (32, 16, 64)


def test_products_outside_of_layers_are_constant_and_said_to_be() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1000, 1000)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            return x @ x.transpose(1, 2)

    model = CostModel(Attends(), [], torch.zeros(1, 5, 1000))
    assert model.count({})[0] == 5 * 1000 * 1000 + 5 * 5 * 1000
    assert model.uncounted[1] == "0.03 MFLOPs outside convolutions and linear layers are taken as constant"


def test_costs_are_for_one_input_whatever_the_batch() -> None:
    network = resnet20()
    assert closed_form(network, IMAGE) == closed_form(network, IMAGE.repeat(4, 1, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_alone(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)).train(training)
    former = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    CostModel(network, [], torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, former[name]) for name, tensor in network.state_dict().items())
    assert network.training is network[1].training is training
    assert not any(module._forward_hooks for module in network.modules())


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    f"{build.__name__}-{channels}": lambda build=build, channels=channels: build(in_channels=channels)
    for build in (resnet20, resnet32, resnet44, resnet56)
    for channels in (1, 3)
} | {
    "resnet18": lambda: zoo.resnet18(num_classes=7),
    "mobilenet_v2": lambda: zoo.mobilenet_v2(num_classes=7),
    "densenet121": lambda: zoo.densenet121(num_classes=7),
    "googlenet": lambda: zoo.googlenet(num_classes=7, aux_logits=False, init_weights=False),
    "vgg": lambda: nn.Sequential(zoo.vgg11_bn().features[:8], nn.Flatten(), nn.Linear(128 * 64, 9), nn.Linear(9, 7)),
}


@dataclass(frozen=True)
class Case:
    """Hold a network, its closed-form cost, and a way to prune it."""

    pruner: Pruner
    cost: CostModel
    example: Tensor


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    network = NETWORKS[request.param]()
    channels = next(module for module in network.modules() if isinstance(module, nn.Conv2d)).in_channels
    example = torch.randn(1, channels, 32, 32)
    groups = find_groups(network, example).cuttable
    space = SearchSpace(groups, {group.name: ("random",) for group in groups}, max_sparsity=0.95)
    scores = {"random": {group.name: torch.rand(group.num_channels) for group in groups}}
    return Case(Pruner(network, space, scores), CostModel(network, groups, example), example)


def really(network: nn.Module, example: Tensor) -> tuple[int, int, int]:
    """Count without the package: PyTorch's FLOPs halved, parameters, bytes of a saved file without its header."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network.eval()(example)
    saved = save(network.state_dict())
    header = 8 + int.from_bytes(saved[:8], "little")
    return (
        counter.get_total_flops() // 2,
        sum(parameter.numel() for parameter in network.parameters()),
        len(saved) - header,
    )


@pytest.mark.parametrize("seed", [None, 1, 2], ids=["smallest", "random-1", "random-2"])
def test_the_closed_form_is_the_count_on_the_network_really_pruned(case: Case, seed: int | None) -> None:
    space, draw = case.pruner.space, random.Random(seed)
    kept = {name: counts[0] if seed is None else draw.choice(counts) for name, counts in space.choices.items()}
    policy = space.policy(kept, dict.fromkeys(kept, "random"))
    pruned = case.pruner.prune(policy)
    assert case.cost.count(space.kept(policy)) == really(pruned, case.example)
    measured = case.cost.measure(kept)
    assert measured.values == measure_network(pruned, case.example).values
    assert measured["mflops"] < measure_network(case.pruner.network, case.example)["mflops"]


@pytest.fixture(scope="module")
def resnet_case() -> Case:
    network = resnet20()
    groups = find_groups(network, IMAGE).cuttable
    space = SearchSpace(groups, {group.name: ("random",) for group in groups})
    return Case(Pruner(network, space, {}), CostModel(network, groups, IMAGE), IMAGE)


@given(data=st.data())
def test_keeping_more_of_a_group_always_costs_more(resnet_case: Case, data: st.DataObject) -> None:
    choices = resnet_case.pruner.space.choices
    less = {name: data.draw(st.sampled_from(counts[:-1]), label=name) for name, counts in choices.items()}
    name = data.draw(st.sampled_from(sorted(choices)))
    more = {**less, name: data.draw(st.sampled_from([count for count in choices[name] if count > less[name]]))}
    pairs = zip(resnet_case.cost.count(less), resnet_case.cost.count(more), strict=True)
    assert all(small < large for small, large in pairs)
