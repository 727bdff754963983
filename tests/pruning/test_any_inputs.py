"""Networks with inputs and outputs of every structure: groups, the oracle, blocks and exact costs."""

from __future__ import annotations

import random

import pytest
import torch
from any_inputs import NETWORKS, Encoder, conv, images
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel, measure_network
from autoprune.errors import ModelError
from autoprune.models.calling.answers import answer_of, are_of_one_shape, difference
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink, zeroed


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Inputs, set[str]]:
    build, batch, names = NETWORKS[request.param]
    torch.manual_seed(0)
    return build().eval(), Inputs.of(batch), names


def some_channels(groups: tuple[PruningGroup, ...]) -> dict[str, list[int]]:
    draw = random.Random(0)
    return {g.name: sorted(draw.sample(range(g.num_channels), draw.randint(1, g.num_channels - 1))) for g in groups}


def test_groups_are_found_and_a_cut_is_the_same_as_zeroing(case: tuple[nn.Module, Inputs, set[str]]) -> None:
    network, inputs, names = case
    groups = find_groups(network, inputs).cuttable
    assert {group.name for group in groups} == names
    network, inputs = network.double(), inputs.real_as(torch.float64)
    cut = plan_cut(network, groups, some_channels(groups))
    found, wanted = answer_of(shrink(network, cut), inputs), answer_of(zeroed(network, cut), inputs)
    assert are_of_one_shape(found, wanted)
    assert max(map(difference, found, wanted)) < 1e-12


def test_costs_are_those_of_the_cut_network(case: tuple[nn.Module, Inputs, set[str]]) -> None:
    network, inputs, _ = case
    groups = find_groups(network, inputs).cuttable
    channels = {group.name: group.num_channels for group in groups}
    model = CostModel(network, tensor_shrinks(network, groups), channels, inputs)
    lost = some_channels(groups)
    small = shrink(network, plan_cut(network, groups, lost))
    kept = ChannelCounts({name: count - len(lost[name]) for name, count in channels.items()})
    assert model.measure(kept).values == measure_network(small, inputs).values
    assert model.measure(ChannelCounts()).values == measure_network(network, inputs).values


class Residual(nn.Module):
    """Two branches that only add, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second, self.head = conv(3, 8), conv(8, 8), Added(conv(8, 8)), nn.Linear(8, 4)

    def forward(self, images: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = self.second(self.first(self.stem(images)))
        return self.head(x.mean((2, 3))) * weights, {"map": x.mean(1)}


class Added(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def test_blocks_of_a_network_with_two_inputs_and_two_outputs() -> None:
    torch.manual_seed(0)
    blocks = find_blocks(Residual().eval(), (images(2, 3, 8, 8), images(2, 1)))
    assert [block.name for block in blocks] == ["second"]


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> list[int]:
        return [len(self.layer(x))]


def test_a_network_that_returns_no_tensor_is_named() -> None:
    with pytest.raises(ModelError, match=r"returns a list without a tensor in eval mode; expected a tensor"):
        find_groups(Nothing(), images(2, 3))


def test_inputs_that_do_not_fit_are_described() -> None:
    with pytest.raises(ModelError, match=r"does not run on inputs ids=list of float32\(3, 4\): TypeError"):
        find_groups(Encoder(), {"ids": [images(3, 4)]})
