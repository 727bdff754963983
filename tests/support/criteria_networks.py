"""Small networks of every kind with their groups written out by hand, so that no search for groups is involved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.importance import Calibration
from autoprune.testing import ExampleNetwork, example_calibration, example_groups


@dataclass(frozen=True)
class Case:
    network: nn.Module
    groups: tuple[PruningGroup, ...]
    calibration: Calibration


def out(module: str, count: int) -> Member:
    return Member(module, "out", tuple(range(count)))


def read(module: str, count: int, width: int = 1) -> Member:
    return Member(module, "in", tuple(range(count * width)), width)


def group(name: str, count: int, *members: Member) -> PruningGroup:
    return PruningGroup(name, count, members)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).relu())


class LayerNormMlp(nn.Module):
    """A residual stream under a layer norm, with a GELU inside the branch: nothing is ever exactly zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 7), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(x + self.down(nn.functional.gelu(self.up(self.norm(x)))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.lstm = kind(6, 4, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x)
        hidden = self.lstm(embedded if self.lstm.batch_first else embedded.transpose(0, 1))[0]
        return self.head(hidden.mean(1 if self.lstm.batch_first else 0))


class Attention(nn.Module):
    """One head by hand: nothing but one another reads queries and keys, and a bare parameter scales the values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
        self.scale, self.out = nn.Parameter(torch.rand(5) + 0.5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q(x) @ self.k(x).mT).softmax(-1)
        return self.out(weights @ (self.v(x) * self.scale)).mean(1)


class Transformer(nn.Module):
    """A layer of PyTorch's own, which takes a fused path past its children where nobody looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 5, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)).mean(1))


class Upsampling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.up = nn.GroupNorm(4, 4), nn.ConvTranspose2d(4, 3, 2, 2)
        self.slope, self.head = nn.PReLU(3), nn.Linear(3 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depthwise(self.conv(x).relu())).relu()
        return self.head(self.slope(self.up(x)).flatten(1))


def numbers(*shape: int) -> Calibration:
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(9, *shape, generator=generator), torch.randint(3, (9,), generator=generator)) for _ in range(2)
    ]
    return Calibration(batches)


def tokens() -> Calibration:
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randint(11, (9, 7), generator=generator) for _ in range(2)]
    return Calibration([(inputs, inputs.sum(1) % 3) for inputs in draw])


def mlp() -> Case:
    groups = (
        group("first", 8, out("first", 8), out("norm", 8), read("second", 8)),
        group("second", 5, out("second", 5), read("head", 5)),
    )
    return Case(Mlp(), groups, numbers(6))


def layer_norm() -> Case:
    stream = (out("embed", 8), out("norm", 8), out("down", 8), read("up", 8), read("head", 8))
    return Case(
        LayerNormMlp(),
        (group("embed", 8, *stream), group("up", 7, out("up", 7), read("down", 7))),
        numbers(6),
    )


def recurrent(kind: type[nn.RNNBase] = nn.LSTM, batch_first: bool = True) -> Case:
    units = tuple(place * 4 + unit for unit in range(4) for place in range(4))
    seen = tuple(direction * 4 + unit for unit in range(4) for direction in range(2))
    groups = (
        group("embed", 6, out("embed", 6), read("lstm", 6)),
        group("lstm", 4, Member("lstm", "out", units, 4), Member("head", "in", seen, 2)),
    )
    return Case(Recurrent(kind, batch_first), groups, tokens())


def attention() -> Case:
    groups = (
        group("q", 4, out("q", 4), out("k", 4)),
        group("v", 5, out("v", 5), Member("scale", "dim0", tuple(range(5))), read("out", 5)),
    )
    return Case(Attention(), groups, numbers(7, 6))


def transformer() -> Case:
    groups = (
        group("layer.self_attn", 2, Member("layer.self_attn", "heads", (0, 1))),
        group("layer.linear1", 5, out("layer.linear1", 5), read("layer.linear2", 5)),
    )
    return Case(Transformer(), groups, numbers(7, 6))


def upsampling() -> Case:
    groups = (
        group("conv", 4, out("conv", 4), out("depthwise", 4), out("norm", 4), read("up", 4)),
        group("up", 3, out("up", 3), out("slope", 3), read("head", 3, width=64)),
    )
    return Case(Upsampling(), groups, numbers(1, 4, 4))


def convolutional() -> Case:
    return Case(ExampleNetwork(), example_groups(), example_calibration())


BUILDERS: dict[str, Callable[[], Case]] = {
    "convolutional": convolutional,
    "mlp": mlp,
    "layer_norm": layer_norm,
    "lstm": recurrent,
    "gru_time_first": lambda: recurrent(nn.GRU, batch_first=False),
    "attention": attention,
    "transformer": transformer,
    "upsampling": upsampling,
}


def build(name: str) -> Case:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BUILDERS[name]()
