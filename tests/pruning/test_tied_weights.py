"""Layers that share a weight: their channels go together, and the cut network shares it still."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel, measure_network
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink, zeroed


class Language(nn.Module):
    """Embedding and output layer share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide, self.narrow = nn.Embedding(20, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        return self.out(x + self.narrow(self.wide(x).relu()))


class Twins(nn.Module):
    """Two layers with one weight and a bias each, as a network that looks at two images."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.left, self.right, self.head = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 3)
        self.right.weight = self.left.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).mean(1)
        return self.head(self.left(x).relu() - self.right(x).tanh())


class Auto(nn.Module):
    """The decoder is the encoder, turned; square, so that sizes tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder, self.head = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.shift = nn.Parameter(torch.randn(16))

    def forward(self, ids: Tensor) -> Tensor:
        code = self.encoder(self.words(ids).mean(1)).relu()
        return self.head(F.linear(code, self.encoder.weight.t(), self.shift).relu())


class Product(Auto):
    """The same, as a product of matrices."""

    def forward(self, ids: Tensor) -> Tensor:
        code = self.encoder(self.words(ids).mean(1)).relu()
        return self.head((code @ self.encoder.weight + self.shift).relu())


class Convolutions(nn.Module):
    """A convolution, and back by a transposed one of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.down = nn.Embedding(20, 8), nn.Conv1d(8, 12, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        code = self.down(self.words(ids).transpose(1, 2)).relu()
        return self.head(F.conv_transpose1d(code, self.down.weight, padding=1).relu().mean(2))


class Positions(nn.Module):
    """An embedding whose weight is sliced by hand, as learned positions are."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(20, 16), nn.Embedding(9, 16), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head((self.words(ids) + self.places.weight[: ids.shape[1]]).relu().mean(1))


class Partly(nn.Module):
    """A weight that one of its owners reads in a way that cannot be cut alike."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.plain = nn.Embedding(20, 16), nn.Linear(16, 8)
        self.grouped, self.head = nn.Conv1d(16, 16, 1, groups=2), nn.Linear(24, 3)
        self.other = nn.Conv1d(8, 16, 1)
        self.other.weight = self.grouped.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        first = self.grouped(x.transpose(1, 2)).mean(2)
        second = self.other(self.plain(x).transpose(1, 2)).mean(2)
        return self.head(F.pad(first * second, (0, 8)))


IDS = torch.randint(20, (2, 6), generator=torch.Generator().manual_seed(0))
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], dict[str, int], set[str]]] = {
    "language": (Language, {"words": 16, "wide": 24}, {"out"}),
    "twins": (Twins, {"words": 12, "left": 16}, {"head"}),
    "autoencoder": (Auto, {"words": 16, "encoder": 16}, {"head"}),
    "autoencoder by a product": (Product, {"words": 16, "encoder": 16}, {"head"}),
    "convolutions": (Convolutions, {"words": 8, "down": 12}, {"head"}),
    "positions": (Positions, {"words": 16}, {"head"}),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, int], set[str]]:
    torch.manual_seed(0)
    build, groups, frozen = NETWORKS[request.param]
    return build().double().eval(), groups, frozen


def half(groups: tuple[PruningGroup, ...]) -> dict[str, list[int]]:
    draw = random.Random(0)
    return {g.name: sorted(draw.sample(range(g.num_channels), g.num_channels // 2)) for g in groups}


def test_what_shares_a_weight_is_cut_alike(case: tuple[nn.Module, dict[str, int], set[str]]) -> None:
    network, expected, frozen = case
    groups = find_groups(network, IDS)
    assert {group.name: group.num_channels for group in groups.cuttable} == expected
    assert {group.name for group in groups.frozen} == frozen
    cut = plan_cut(network, groups.cuttable, half(groups.cuttable))
    small = shrink(network, cut)
    assert torch.allclose(small(IDS), zeroed(network, cut)(IDS), rtol=0, atol=1e-12)
    shared = len(dict(network.named_parameters(remove_duplicate=False))) - len(dict(network.named_parameters()))
    assert len(dict(small.named_parameters(remove_duplicate=False))) - len(dict(small.named_parameters())) == shared


def test_costs_count_a_shared_weight_once(case: tuple[nn.Module, dict[str, int], set[str]]) -> None:
    network, channels, _ = case
    groups = find_groups(network, IDS).cuttable
    model = CostModel(network, tensor_shrinks(network, groups), channels, IDS)
    small = shrink(network, plan_cut(network, groups, half(groups)))
    kept = ChannelCounts({name: count - count // 2 for name, count in channels.items()})
    assert model.measure(kept).values == measure_network(small, IDS).values


def test_training_moves_a_shared_weight_in_both_places() -> None:
    torch.manual_seed(0)
    network = Language().eval()
    groups = find_groups(network, IDS).cuttable
    small = shrink(network, plan_cut(network, groups, half(groups)))
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small(IDS).square().mean().backward()
    optimizer.step()
    assert small.out.weight is small.words.weight


def test_a_weight_that_its_owners_read_differently_stays() -> None:
    torch.manual_seed(0)
    found = find_groups(Partly().eval(), IDS)
    reasons = {group.name: group.reason for group in found.frozen}
    assert any("shares its weight with" in reason for reason in reasons.values())
    assert not {"grouped", "other"} & {group.name for group in found.cuttable}


def test_a_state_dict_of_a_cut_network_loads_into_its_like(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Language().eval()
    groups = find_groups(network, IDS).cuttable
    cut = plan_cut(network, groups, half(groups))
    first, second = shrink(network, cut), shrink(Language().eval(), cut)
    torch.save(first.state_dict(), tmp_path / "weights.pt")
    second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(first(IDS), second(IDS))
