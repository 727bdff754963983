"""Networks with inputs and outputs of every structure: groups, the oracle, blocks and exact costs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

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


def conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class TwoTowers(nn.Module):
    """Two inputs of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(70, 16)
        self.left, self.right = (
            nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)),
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8)),
        )

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.left(self.users(user)) * self.right(self.items(item))).sum(-1)


class TwoHeads(nn.Module):
    """Two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), conv(16, 12))
        self.digit, self.ink = nn.Linear(12, 10), nn.Linear(12, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x).mean((2, 3))
        return {"digit": self.digit(x), "ink": self.ink(x)[:, 0]}


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class Detector(nn.Module):
    """Images of several sizes in a list, and as many boxes for each as score above its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16), conv(16, 24))
        self.box, self.kind = nn.Conv2d(24, 4, 1), nn.Conv2d(24, 3, 1)

    def forward(self, images: list[Tensor]) -> list[Found]:
        return [self.detect(self.body(image[None])) for image in images]

    def detect(self, x: Tensor) -> Found:
        scores, boxes = self.kind(x)[0].flatten(1).sigmoid(), self.box(x)[0].flatten(1)
        chosen = scores.amax(0) > scores.mean()
        return Found(boxes[:, chosen].t(), scores[:, chosen])


class UNet(nn.Module):
    """A class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up, self.out = conv(1, 8), conv(8, 16), conv(24, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        deep = F.interpolate(self.deep(F.max_pool2d(x, 2)), scale_factor=2)
        return self.out(self.up(torch.cat([x, deep], 1)))


class Recurrent(nn.Module):
    """A packed sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(6, 12), nn.LSTM(12, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, packed: PackedSequence) -> Tensor:
        _, (state, _) = self.layer(packed._replace(data=self.embed(packed.data)))
        return self.head(state[-1])


class Encoder(nn.Module):
    """Token ids and a mask by name; with labels it returns a loss as well."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.wide, self.narrow, self.head = (
            nn.Embedding(30, 24), nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 5),
        )  # fmt: skip

    def forward(self, ids: Tensor, mask: Tensor | None = None, labels: Tensor | None = None) -> dict[str, Any]:
        x = self.words(ids)
        x = x + self.narrow(self.wide(x).relu())
        scores = self.head((x if mask is None else x * mask[..., None]).mean(1))
        return {"loss": None if labels is None else F.cross_entropy(scores, labels), "logits": scores}


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(0))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


WORDS = ids(30, 4, 9)
PACKED = pack_padded_sequence(images(3, 7, 6), torch.tensor([7, 5, 2]), batch_first=True)
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Any, set[str]]] = {
    "two inputs": (TwoTowers, (ids(50, 6), ids(70, 6)), {"users", "items", "left.0", "left.2", "right.0"}),
    "one pair": (TwoTowers, (ids(50, 1), ids(70, 1)), {"users", "items", "left.0", "left.2", "right.0"}),
    "two outputs": (TwoHeads, images(2, 3, 16, 16), {"body.0.0", "body.1.0"}),
    "a list": (Detector, [images(3, 16, 16), images(3, 20, 24)], {"body.0.0", "body.1.0"}),
    "one image in a list": (Detector, [images(3, 16, 16)], {"body.0.0", "body.1.0"}),
    "pixels": (UNet, images(2, 1, 16, 16), {"down.0", "deep.0", "up.0"}),
    "packed": (Recurrent, PACKED, {"embed", "layer"}),
    "names": (Encoder, {"ids": WORDS, "mask": torch.ones(4, 9, dtype=torch.int64)}, {"words", "wide"}),
    "with labels": (Encoder, {"ids": WORDS, "labels": ids(5, 4)}, {"words", "wide"}),
    "arguments and names": (Encoder, ((WORDS,), {"mask": torch.ones(4, 9)}), {"words", "wide"}),
}


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
