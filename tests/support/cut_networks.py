"""Small networks of every kind of layer, with what a removed channel takes away written by hand.

Each :class:`CutCase` builds the network with any number of channels directly, so that nothing is cut by the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from pytorch_counter import counting_flops
from safetensors.torch import save
from torch import Tensor, nn

from autoprune.core.channel_groups import Shrink


def really(network: nn.Module, example: Tensor) -> tuple[int, int, int]:
    """Count without the package: PyTorch's FLOPs halved, parameters, bytes of a saved file without its header."""
    with counting_flops() as counter:
        network.eval()(example)
    saved = save(network.state_dict())
    header = 8 + int.from_bytes(saved[:8], "little")
    params = sum(parameter.numel() for parameter in network.parameters())
    return counter.get_total_flops() // 2, params, len(saved) - header


@dataclass(frozen=True)
class CutCase:
    """Hold a network of any width.

    Attributes:
        build: makes it, from group → channels.
        channels: group → channels of the dense network.
        shrinks: group → tensor and dimension → by how much it shrinks.
        example: its input.
    """

    build: Callable[..., nn.Module]
    channels: Mapping[str, int]
    takes: Mapping[str, Mapping[tuple[str, int], int]]
    example: Tensor = field(default_factory=lambda: torch.zeros(1, 3, 9, 9))

    @property
    def shrinks(self) -> dict[str, list[Shrink]]:
        """Return the same as the package takes it."""
        return {
            group: [Shrink(tensor, dim, by) for (tensor, dim), by in takes.items()]
            for group, takes in self.takes.items()
        }


def first_of(tensors: Tensor | tuple[Tensor, ...]) -> Tensor:
    return tensors if isinstance(tensors, Tensor) else tensors[0]


class First(nn.Module):
    """Return the first of what a layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return first_of(self.layer(x))


class HeadsOnly(nn.Module):
    """Attend with any number of heads of a fixed size, as ``nn.MultiheadAttention`` cannot."""

    def __init__(self, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * heads * size, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * heads * size))
        self.out_proj = nn.Linear(heads * size, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        pairs = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        parts = [nn.functional.linear(x, weight, bias) for x, weight, bias in pairs]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.out_proj(seen), None


class Encoder(nn.Module):
    """Attend to the first two of the tokens, or to all of them, then mix channels."""

    def __init__(self, heads: int, hidden: int, dense_heads: int = 4, crossed: bool = False) -> None:
        super().__init__()
        is_dense = heads == dense_heads
        self.attend = (
            nn.MultiheadAttention(12, heads, batch_first=True) if is_dense else HeadsOnly(12, heads, 12 // dense_heads)
        )
        self.mix = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, hidden), nn.GELU(), nn.Linear(hidden, 12))
        self.crossed = crossed

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :2] if self.crossed else x
        x = x + first_of(self.attend(x, seen, seen))
        return x + self.mix(x)


class Bare(nn.Module):
    """Multiply with parameters that belong to no layer."""

    def __init__(self, a: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 1, a))
        self.first, self.second = nn.Parameter(torch.zeros(6, a)), nn.Parameter(torch.zeros(a, 3))
        self.mixed = nn.Parameter(torch.zeros(a, a))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.first + self.place
        return x @ self.mixed.T @ self.second


class Joined(nn.Module):
    """Concatenate two branches."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, a, 1), nn.Conv2d(3, b, 3, padding=1)
        self.last = nn.Conv2d(a + b, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.left(x), self.right(x)], 1))


class Standardised(nn.Conv2d):
    """Convolve with a weight that is computed from the parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias)


def recurrent(kind: type[nn.RNNBase], gates: int) -> CutCase:
    """Return a bidirectional layer of depth two; one channel is one unit of every depth and direction."""
    tails = [f"l{depth}{way}" for depth in (0, 1) for way in ("", "_reverse")]
    out = {(f"1.layer.{name}_{tail}", 0): gates for tail in tails for name in ("weight_ih", "weight_hh")}
    out |= {(f"1.layer.{name}_{tail}", 0): gates for tail in tails for name in ("bias_ih", "bias_hh")}
    out |= {(f"1.layer.weight_hh_{tail}", 1): 1 for tail in tails}
    out |= {(f"1.layer.weight_ih_{tail}", 1): 2 for tail in tails[2:]}
    read = {(f"1.layer.weight_ih_{tail}", 1): 1 for tail in tails[:2]}
    return CutCase(
        lambda a, b: nn.Sequential(
            nn.Linear(5, a),
            First(kind(a, b, num_layers=2, bidirectional=True, batch_first=True)),
            nn.Linear(2 * b, 3),
        ),
        {"a": 6, "b": 7},
        {"a": {("0.weight", 0): 1, ("0.bias", 0): 1, **read}, "b": {**out, ("2.weight", 1): 2}},
        torch.zeros(1, 8, 5),
    )


def norm(path: str) -> dict[tuple[str, int], int]:
    return {(f"{path}.{name}", 0): 1 for name in ("weight", "bias", "running_mean", "running_var")}


def encoder(crossed: bool) -> CutCase:
    attend = {("in_proj_weight", 0): 9, ("in_proj_bias", 0): 9, ("out_proj.weight", 1): 3}
    heads = {(f"attend.{name}", dim): by for (name, dim), by in attend.items()}
    return CutCase(
        lambda a, b: Encoder(a, b, crossed=crossed),
        {"a": 4, "b": 10},
        {
            "a": {**heads, ("attend:products", 0): 1},
            "b": {("mix.1.weight", 0): 1, ("mix.1.bias", 0): 1, ("mix.3.weight", 1): 1},
        },
        torch.zeros(1, 5, 12),
    )


CUT_CASES: Mapping[str, CutCase] = {
    "conv-bn": CutCase(
        lambda a: nn.Sequential(nn.Conv2d(3, a, 3, stride=2), nn.BatchNorm2d(a), nn.Conv2d(a, 5, 3, bias=False)),
        {"a": 8},
        {"a": {("0.weight", 0): 1, ("0.bias", 0): 1, **norm("1"), ("2.weight", 1): 1}},
    ),
    "grouped": CutCase(
        lambda a: nn.Sequential(nn.Conv2d(3, 2 * a, 1), nn.Conv2d(2 * a, 3 * a, 3, groups=a), nn.Conv2d(3 * a, 4, 1)),
        {"a": 6},
        {"a": {("0.weight", 0): 2, ("0.bias", 0): 2, ("1.weight", 0): 3, ("1.bias", 0): 3, ("2.weight", 1): 3}},
    ),
    "depthwise": CutCase(
        lambda a: nn.Sequential(nn.Conv2d(3, a, 1, bias=False), nn.Conv2d(a, a, 3, groups=a), nn.Conv2d(a, 4, 1)),
        {"a": 9},
        {"a": {("0.weight", 0): 1, ("1.weight", 0): 1, ("1.bias", 0): 1, ("2.weight", 1): 1}},
    ),
    "transposed": CutCase(
        lambda a, b: nn.Sequential(
            nn.ConvTranspose2d(3, 2 * a, 3, stride=2),
            nn.ConvTranspose2d(2 * a, 3 * a, 2, groups=a),
            nn.ConvTranspose2d(3 * a, b, 3, stride=2, bias=False),
            nn.Conv2d(b, 2, 1),
        ),
        {"a": 4, "b": 5},
        {
            "a": {("0.weight", 1): 2, ("0.bias", 0): 2, ("1.weight", 0): 2, ("1.bias", 0): 3, ("2.weight", 0): 3},
            "b": {("2.weight", 1): 1, ("3.weight", 1): 1},
        },
    ),
    "flattened": CutCase(
        lambda a: nn.Sequential(nn.Conv2d(3, a, 6), nn.PReLU(a), nn.Flatten(), nn.Linear(16 * a, 5)),
        {"a": 6},
        {"a": {("0.weight", 0): 1, ("0.bias", 0): 1, ("1.weight", 0): 1, ("3.weight", 1): 16}},
    ),
    "embedded": CutCase(
        lambda a: nn.Sequential(nn.Embedding(11, a), nn.LayerNorm(a), nn.Linear(a, a), nn.Linear(a, 3)),
        {"a": 8},
        {
            "a": {("0.weight", 1): 1, ("1.weight", 0): 1, ("1.bias", 0): 1}
            | {("2.weight", 0): 1, ("2.weight", 1): 1, ("2.bias", 0): 1, ("3.weight", 1): 1}
        },
        torch.zeros(1, 7, dtype=torch.int64),
    ),
    "joined": CutCase(
        Joined,
        {"a": 5, "b": 6},
        {
            "a": {("left.weight", 0): 1, ("left.bias", 0): 1, ("last.weight", 1): 1},
            "b": {("right.weight", 0): 1, ("right.bias", 0): 1, ("last.weight", 1): 1},
        },
    ),
    "standardised": CutCase(
        lambda a: nn.Sequential(Standardised(3, a, 3), nn.GroupNorm(1, a), Standardised(a, 2, 3)),
        {"a": 7},
        {"a": {("0.weight", 0): 1, ("0.bias", 0): 1, ("1.weight", 0): 1, ("1.bias", 0): 1, ("2.weight", 1): 1}},
    ),
    "bare": CutCase(
        Bare,
        {"a": 5},
        {"a": {("place", 2): 1, ("first", 1): 1, ("mixed", 0): 1, ("mixed", 1): 1, ("second", 0): 1}},
        torch.zeros(1, 4, 6),
    ),
    "lstm": recurrent(nn.LSTM, 4),
    "gru": recurrent(nn.GRU, 3),
    "rnn": recurrent(nn.RNN, 1),
    "attention": encoder(crossed=False),
    "cross-attention": encoder(crossed=True),
}
