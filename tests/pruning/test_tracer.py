"""Every operation of a forward pass says how channels flow through it, and what cannot be followed is frozen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from pruning_nets import OUTPUT, Body, Flow, Part, Tokens, counted, outputs, parameter, random_cut
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.surgery import shrink, zeroed
from autoprune.pruning.tracing.tracer import OutOfTime
from autoprune.pruning.tracing.whole_trace import trace


@dataclass(frozen=True)
class Case:
    """What happens between two convolutions, and what is expected of the channels of the first.

    Attributes:
        flow: what happens.
        parts: what it uses.
        channels: what comes out.
        cuttable: group → channels, besides ``plain``.
        frozen: group → words of the reason, besides the output.
    """

    flow: Flow
    parts: Mapping[str, Part] = field(default_factory=dict)
    channels: int = 8
    cuttable: Mapping[str, int] = field(default_factory=lambda: {"stem": 8})
    frozen: Mapping[str, str] = field(default_factory=dict)


def beside() -> dict[str, nn.Module]:
    """Return a second convolution that reads the same as the stem makes."""
    return {"side": nn.Conv2d(8, 8, 1)}


def excited(s: Body, x: Tensor) -> Tensor:
    return x * s.up(s.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


def shuffle(s: Body, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_unit(s: Body, x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return shuffle(s, torch.cat([left, s.side(right)], 1))


def normalised_by_hand(s: Body, x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1)


def shifted_in_part(s: Body, x: Tensor) -> Tensor:
    shifted = torch.zeros_like(x)
    shifted[:, :, 1:] = x[:, :, :-1]
    return shifted


def written_side_by_side(s: Body, x: Tensor) -> Tensor:
    whole = torch.zeros(x.shape)
    whole[:, :4], whole[:, 4:] = x[:, 4:], x[:, :4]
    return whole


def written_by_mask(x: Tensor) -> Tensor:
    where = x.mean((1, 2, 3)) > -100
    out = torch.zeros(x.shape, dtype=x.dtype)
    out[where] = x[where] * 2
    return out


def in_two_parts(s: Body, x: Tensor) -> Tensor:
    left, right = x[:, : s.width], x[:, s.width :]
    return torch.cat([s.side(left), right], 1).reshape(len(x), *s.shape).view(len(x), -1, 8, 8)


def in_three_parts(s: Body, x: Tensor) -> Tensor:
    if x.shape[1] != s.whole:
        raise ValueError("not as wide as was said")
    return torch.cat(x.split(s.widths, 1)[::-1], 1)


def tied_in_a_chain(s: Body, x: Tensor) -> Tensor:
    beside = s.side(x).reshape(len(x), x.shape[1], -1)
    return s.last(x).reshape(len(x), s.side.out_channels, -1).view(x.shape) + beside.view(x.shape)


def seen_by_numpy(s: Body, x: Tensor) -> Tensor:
    s.peak = float(x.detach().cpu().numpy().max())
    return x


def checked(s: Body, x: Tensor) -> Tensor:
    s.seen = torch.fft.fft2(x).real
    if torch.isnan(x).any() or x.flatten(1).quantile(0.5, 1).isinf().any():
        raise RuntimeError("not finite")
    return x


class Gained(nn.Conv2d):
    """A convolution with a further scale for each of its filters, by which it multiplies its weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(sizes[1], 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.gain, self.bias)


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


FREELY: Mapping[str, Case] = {
    "in place": Case(lambda s, x: x.add_(1).mul_(2).relu_()),
    "activations": Case(lambda s, x: F.hardswish(F.gelu(F.silu(x)).exp().clamp(max=6))),
    "where": Case(lambda s, x: torch.where(x > 0, x, 0.1 * x)),
    "masked": Case(lambda s, x: x.masked_fill(x < 0, 0.5)),
    "padding in space": Case(lambda s, x: F.pad(x, (1, 1, 0, 2))),
    "reflected padding": Case(lambda s, x: F.pad(x, (1, 1, 1, 1), mode="reflect")),
    "pooling": Case(lambda s, x: F.max_pool2d(F.avg_pool2d(x, 3, 1), 2)),
    "resizing": Case(lambda s, x: F.interpolate(x, size=(5, 5), mode="bilinear", align_corners=False)),
    "rolling": Case(lambda s, x: x.roll(1, 2).flip(3)),
    "softmax over places": Case(lambda s, x: x.flatten(2).softmax(2).view_as(x)),
    "sorting places": Case(lambda s, x: x.sort(2)[0].topk(3, dim=3)[0]),
    "running sum over places": Case(lambda s, x: x.cumsum(2)),
    "normalised by hand": Case(normalised_by_hand),
    "casts": Case(lambda s, x: x.detach().double().contiguous().to(s.stem.weight.dtype)),
    "repeated": Case(lambda s, x: x.repeat(1, 2, 1, 1), channels=16),
    "beside zeros": Case(lambda s, x: torch.cat([x, torch.zeros_like(x)], 1), channels=16),
    "beside its mean": Case(lambda s, x: torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x)], 1), channels=16),
    "flattened": Case(lambda s, x: s.deep(x.flatten(1))[..., None, None], {"deep": nn.Linear(512, 8)},
                      cuttable={"stem": 8, "deep": 8}),
    "added": Case(lambda s, x: x + s.side(x), beside()),
    "larger of two": Case(lambda s, x: torch.max(x, torch.maximum(s.side(x), x)), beside()),
    "chosen of two": Case(lambda s, x: torch.where(x > 0, x, s.side(x)), beside()),
    "concatenated": Case(lambda s, x: torch.cat([x, s.side(x)], 1), beside(), 16, {"stem": 8, "side": 8}),
    "twice through one layer": Case(lambda s, x: s.side(s.side(x).relu()), beside()),
    "squeeze and excite": Case(excited, {"down": nn.Linear(8, 4), "up": nn.Linear(4, 8)},
                               cuttable={"stem": 8, "down": 4}),
    "depthwise": Case(lambda s, x: s.line(x.flatten(2)).view_as(x), {"line": nn.Conv1d(8, 8, 1, groups=8)}),
    "split in equal parts": Case(lambda s, x: torch.mul(*x.chunk(2, 1)), channels=4, cuttable={"stem": 4}),
    "gated": Case(lambda s, x: F.glu(x, 1), channels=4, cuttable={"stem": 4}),
    "shuffled": Case(shuffle, cuttable={"stem": 4}),
    "shuffled by the module": Case(lambda s, x: s.mix(x), {"mix": nn.ChannelShuffle(4)}, cuttable={"stem": 2}),
    "shuffled unit": Case(shuffle_unit, {"side": nn.Conv2d(4, 4, 1)}, cuttable={"stem": 4}),
    "pixels out of channels": Case(lambda s, x: F.pixel_shuffle(x, 2), channels=2, cuttable={"stem": 2}),
    "channels out of pixels": Case(lambda s, x: F.pixel_unshuffle(x, 2), channels=32),
    "folded": Case(lambda s, x: x.view(x.shape[0], 2, -1, 8, 8).sum(1), channels=4, cuttable={"stem": 4}),
    "scaled by a parameter": Case(lambda s, x: x * s.scale, {"scale": parameter(1, 8, 1, 1)}),
    "shifted by a buffer": Case(lambda s, x: x + s.place, {"place": torch.randn(8, 8, 8)}),
    "scaled by one number": Case(lambda s, x: x * s.scale + 1, {"scale": parameter(1)}),
    "scaled by place": Case(lambda s, x: x * s.scale, {"scale": parameter(1, 1, 8, 8)}),
    "less its mean": Case(lambda s, x: x - x.mean(1, keepdim=True)),
    "of unit length": Case(lambda s, x: F.normalize(x, dim=1)),
    "largest of all": Case(lambda s, x: x * torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
                           .sum(1, keepdim=True).sigmoid()),
    "branches, stacked and added": Case(lambda s, x: torch.stack([x, s.side(x)], 1).sum(1), beside()),
    "branches, stacked, the larger": Case(lambda s, x: torch.stack([x, s.side(x)]).amax(0), beside()),
    "a branch of code": Case(lambda s, x: x * 2 if x.abs().sum() > 0 else x * 3),
    "checked and not used": Case(checked),
    "written in part": Case(shifted_in_part),
    "written where a mask says": Case(lambda s, x: written_by_mask(x)),
    "added to zeros of its own": Case(lambda s, x: x + x.new_zeros(x.shape[1], 1, 1) + torch.ones(x.shape)),
    "einsum": Case(lambda s, x: torch.einsum("nchw,oc->nohw", x, s.w), {"w": parameter(8, 8)},
                   cuttable={"stem": 8, "w": 8}),
    "bare convolution": Case(lambda s, x: F.conv2d(x, s.weight), {"weight": parameter(8, 8, 1, 1)},
                             cuttable={"stem": 8, "weight": 8}),
    "blurred": Case(lambda s, x: F.conv2d(x, s.blur, groups=x.shape[1]), {"blur": torch.rand(8, 1, 3, 3)}),
    "blurred by one filter": Case(lambda s, x: F.conv2d(x, s.blur.expand(x.shape[1], 1, 3, 3), groups=x.shape[1]),
                                  {"blur": torch.rand(1, 1, 3, 3)}),
    "products of all pairs": Case(lambda s, x: (x.flatten(2).mT @ x.flatten(2))[:, :8, :8][:, :, None, :] + 0
                                  * s.side(x).sum(), beside(), cuttable={"stem": 8, "side": 8}),
    "over positions": Case(lambda s, x: s.mix(x.flatten(2)).view_as(x), {"mix": nn.Linear(64, 64)},
                           frozen={"mix": "is computed over positions, which are not channels"}),
    "positions by a matrix": Case(lambda s, x: (s.w @ x.flatten(2).mT).mT.reshape(x.shape), {"w": parameter(64, 64)}),
    "resized exactly": Case(lambda s, x: F.interpolate(x, scale_factor=2, mode="nearest-exact")),
    "resized without aliases": Case(lambda s, x: F.interpolate(x, (5, 5), mode="bicubic", antialias=True)),
    "chosen among branches": Case(
        lambda s, x: (torch.stack([x, s.other(x)], 1).softmax(1) * torch.stack([x, x * 2], 1)).sum(1),
        {"other": nn.Conv2d(8, 8, 1)}),
    "as it is like a vector": Case(lambda s, x: x * F.cosine_similarity(x, s.w, dim=1)[:, None],
                                   {"w": parameter(8, 1, 1)}),
    "as it is like one of many": Case(
        lambda s, x: x * F.cosine_similarity(x.mean((2, 3))[:, None], s.w, dim=-1).amax(1).view(-1, 1, 1, 1),
        {"w": parameter(5, 8)}),
    "as its halves are alike": Case(
        lambda s, x: x[..., :4] * F.cosine_similarity(x[..., :4], x[..., 4:], dim=-1)[..., None]),
    "resized in space": Case(lambda s, x: F.interpolate(x[:, :, None], (2, 5, 5), mode="trilinear").mean(2)),
    "a width kept as a number": Case(lambda s, x: x.view(len(x), s.width, -1).view_as(x), {"width": 8}),
    "widths kept in a list": Case(lambda s, x: torch.cat(x.split(s.widths, 1)[::-1], 1), {"widths": [3, 5]},
                                  cuttable={"stem": 3, "stem[3:]": 5}),
    "a slice kept as a number": Case(lambda s, x: torch.cat([x[:, s.width :], x[:, : s.width] * 2], 1), {"width": 3},
                                     cuttable={"stem": 3, "stem[3:]": 5}),
    "a shape kept as a number": Case(lambda s, x: x.reshape(len(x), *s.shape).reshape(x.shape), {"shape": (8, -1)}),
    "two parts of which numbers count both": Case(in_two_parts, {"width": 3, "shape": (8, -1),
                                                  "side": nn.Conv2d(3, 3, 1)},
                                                  cuttable={"stem": 3, "stem[3:]": 5, "side": 3}),
    "three widths in a list and their sum": Case(in_three_parts, {"widths": [2, 3, 3], "whole": 8},
                                                 cuttable={"stem": 2, "stem[2:]": 3, "stem[5:]": 3}),
    "beside zeros of its size": Case(lambda s, x: torch.cat([x, x.new_zeros(x.shape)], 1), channels=16),
    "a third that a module names the size of": Case(tied_in_a_chain, {"side": nn.Conv2d(8, 8, 1),
                                                                      "last": nn.Conv2d(8, 8, 1)}),
    "a vector folded into maps": Case(lambda s, x: s.fold(s.deep(x.flatten(1))),
                                      {"deep": nn.Linear(512, 8 * 16), "fold": nn.Unflatten(1, (8, 4, 4))},
                                      cuttable={"stem": 8, "deep": 8}),
    "messages added to nodes": Case(lambda s, x: torch.zeros_like(x).index_add(2, s.goal, x),
                                    {"goal": torch.arange(8) // 2}),
    "seen by NumPy": Case(seen_by_numpy),
    "gated by a pool and a mean": Case(lambda s, x: x * (s.up(F.adaptive_avg_pool2d(x, 1)) + x.mean(1, keepdim=True)),
                                       {"up": nn.Conv2d(8, 8, 1)}),
    "neighbours, by letters": Case(lambda s, x: torch.einsum("vw,nchw->nchv", s.w, x), {"w": parameter(8, 8)}),
    "neighbours, for each example": Case(lambda s, x: torch.bmm(s.w.expand(len(x), 64, 64), x.flatten(2).mT)
                                         .mT.reshape(x.shape), {"w": parameter(64, 64)}),
    "directions": Case(lambda s, x: first(F.linear(F.normalize(last(x), dim=3), F.normalize(s.w))),
                       {"w": parameter(8, 8)}, cuttable={"stem": 8, "w": 8}),
    "directions, transposed": Case(lambda s, x: first(last(x) @ F.normalize(s.w).t()), {"w": parameter(8, 8)},
                                   cuttable={"stem": 8, "w": 8}),
    "a layer's weight transposed": Case(lambda s, x: first(last(x) @ s.layer.weight.T), {"layer": nn.Linear(8, 8)},
                                        cuttable={"stem": 8, "layer": 8}),
    "a scale of the layer itself": Case(lambda s, x: s.gained(x), {"gained": Gained(8, 8, 1)},
                                        cuttable={"stem": 8, "gained": 8}),
    "weight norm": Case(lambda s, x: s.layer(x), {"layer": parametrizations.weight_norm(nn.Conv2d(8, 8, 3))},
                        cuttable={"stem": 8, "layer": 8}),
    "weight norm over channels": Case(lambda s, x: s.layer(x),
                                      {"layer": parametrizations.weight_norm(nn.Conv2d(8, 8, 3), dim=2)},
                                      cuttable={"stem": 8, "layer": 8}),
    "spectral norm": Case(lambda s, x: s.layer(x), {"layer": parametrizations.spectral_norm(nn.Conv2d(8, 8, 3))},
                          cuttable={"stem": 8, "layer": 8}),
    "same of every group": Case(lambda s, x: s.pair(x), {"pair": nn.Conv2d(8, 8, 3, groups=2)},
                                cuttable={"stem": 4, "pair": 4}),
    "bare linear map": Case(lambda s, x: first(F.linear(last(x), s.weight, s.bias)),
                            {"weight": parameter(8, 8), "bias": parameter(8)}, cuttable={"weight": 8, "stem": 8}),
    "bare product": Case(lambda s, x: first(last(x) @ s.weight), {"weight": parameter(8, 8)},
                         cuttable={"weight": 8, "stem": 8}),
}  # fmt: skip
STUCK: Mapping[str, Case] = {
    name: Case(flow, parts, channels, {**cuttable}, {"stem": words} if isinstance(words, str) else words)
    for name, flow, parts, channels, cuttable, words in [
        ("softmax", lambda s, x: x.softmax(1), {}, 8, {}, "is mixed with other channels by softmax"),
        ("running sum", lambda s, x: x.cumsum(1), {}, 8, {}, "is mixed with other channels by cumsum"),
        ("maxout", lambda s, x: x.view(-1, 4, 2, 8, 8).amax(2), {}, 4, {}, "the output changes its shape"),
        ("gate", lambda s, x: x * s.gate(x).sigmoid(), {"gate": nn.Conv2d(8, 1, 1)}, 8, {"stem": 8},
         {"gate": "is one channel for many others"}),
        ("fixed split", lambda s, x: torch.cat(x.split([3, 5], 1)[::-1], 1), {}, 8, {},
         {"stem": "split_with_sizes expects", "stem[3:]": "split_with_sizes expects"}),
        ("fixed slice", lambda s, x: torch.cat([x[:, :4] * 2, x[:, 4:]], 1), {}, 8, {"stem[4:]": 4},
         "is not the same as zeroing"),
        ("fixed order", lambda s, x: x[:, [7, 6, 5, 4, 3, 2, 1, 0]], {}, 8, {}, "index 7 is out of bounds"),
        ("fixed zeros", lambda s, x: x + torch.zeros(8, 1, 1), {}, 8, {}, "is combined with a tensor of fixed size"),
        ("padding", lambda s, x: F.pad(x, (0, 0, 0, 0, 1, 1)), {}, 10, {}, "is padded with a fixed number of channels"),
        ("written side by side", written_side_by_side, {}, 8, {},
         {"stem": "forward pass fails once it is cut", "stem[4:]": "forward pass fails once it is cut"}),
        ("every pair", lambda s, x: x.mean((2, 3))[:, :, None, None] * x.mean((2, 3))[:, None, :, None], {}, 8, {},
         "meets other channels in every combination"),
        ("computed weight", lambda s, x: F.conv2d(x, s.weight * s.other), {"weight": parameter(8, 8, 1, 1),
         "other": parameter(8, 8, 1, 1)}, 8, {}, "is read by a convolution whose weight is computed"),
        ("standardised matrix", lambda s, x: first(F.linear(last(x), s.w - s.w.mean(1, keepdim=True))),
         {"w": parameter(8, 8)}, 8, {"w": 8}, "is read by w, which takes the mean of its weights"),
        ("unknown", lambda s, x: torch.fft.fft2(x).real, {}, 8, {}, "passes through fft_fft2, which autoprune"),
        ("not for integers", lambda s, x: F.unfold(x, 2, stride=2)[..., None], {}, 32, {}, "passes through im2col"),
        ("along channels", lambda s, x: x * s.line(x.mean((2, 3))[:, None]).sigmoid().mT[..., None],
         {"line": nn.Conv1d(1, 1, 3, padding=1)}, 8, {}, "all its 8 channels are coupled with one another"),
    ]
}  # fmt: skip


NOTHING = "no channels of it can be cut"


def found(network: nn.Module) -> Groups:
    return find_groups(network, torch.randn(network.example))


@pytest.mark.parametrize("name", [*FREELY, *STUCK])
def test_an_operation_lets_channels_go_or_says_why_not(name: str) -> None:
    torch.manual_seed(0)
    case = (FREELY | STUCK)[name]
    groups = found(Body(case.flow, case.channels, **case.parts))
    assert {g.name: g.num_channels for g in groups.cuttable} == {**case.cuttable, "plain": 12}
    reasons = {group.name: group.reason for group in groups.frozen if group.reason != NOTHING}
    assert set(reasons) == {*case.frozen, "head"}
    assert reasons["head"] == OUTPUT
    for group, words in case.frozen.items():
        assert words in reasons[group]
        assert re.search(
            r"\(test_tracer\.py:\d+, in \S+: .+\)$|zeroing|coupled|changes its shape", reasons[group], re.S
        )


STATISTICS: Mapping[str, Callable[[Body, Tensor, list[int]], Tensor]] = {
    "less its mean": lambda s, x, kept: x - x[:, kept].mean(1, keepdim=True),
    "gated by a pool and a mean": lambda s, x, kept: (
        x * (s.up(F.adaptive_avg_pool2d(x, 1)) + x[:, kept].mean(1, keepdim=True))
    ),
    "largest of all": lambda s, x, kept: (
        x * (x[:, kept].mean(1, keepdim=True) + x[:, kept].amax(1, keepdim=True)).sigmoid()
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_is_that_of_the_channels_that_stay(name: str) -> None:
    torch.manual_seed(0)
    network = Body(FREELY[name].flow, 8, **FREELY[name].parts).double().eval()
    x = torch.randn(network.example, dtype=torch.float64)
    cut = random_cut(network, found(network).cuttable)
    pruned, twin = outputs(shrink(network, cut), x), zeroed(network, cut)
    kept = list(cut["stem"].sides["out"])
    twin.flow = lambda s, x: STATISTICS[name](s, x, kept)
    torch.testing.assert_close(pruned, outputs(twin, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in FREELY if name not in STATISTICS])
def test_what_goes_is_what_zeroing_says(name: str) -> None:
    torch.manual_seed(0)
    case = FREELY[name]
    network = Body(case.flow, case.channels, **case.parts).double().eval()
    x = torch.randn(network.example, dtype=torch.float64)
    cut = random_cut(network, found(network).cuttable)
    pruned = outputs(shrink(network, cut), x)
    torch.testing.assert_close(pruned, outputs(zeroed(network, cut), x), rtol=0, atol=1e-12)
    assert float((pruned - outputs(network, x)).abs().max()) > 1e-3


@pytest.mark.parametrize("name", FREELY)
def test_what_goes_is_counted_exactly(name: str) -> None:
    torch.manual_seed(0)
    case = FREELY[name]
    network = Body(case.flow, case.channels, **case.parts).float().eval()
    x, groups = torch.randn(network.example)[:1], found(network).cuttable
    model = CostModel(network, tensor_shrinks(network, groups), {g.name: g.num_channels for g in groups}, x)
    lost = {group.name: tuple(range(group.num_channels // 2)) for group in groups}
    small = shrink(network, plan_cut(network, groups, lost))
    kept = ChannelCounts({group.name: group.num_channels - group.num_channels // 2 for group in groups})
    assert model.count(kept) == counted(small, x)


def heads(q: Tensor) -> Tensor:
    return q.unflatten(-1, (2, q.shape[-1] // 2)).transpose(1, 2)


ATTENTION: Mapping[str, Flow] = {
    "matmul": lambda s, x: ((s.q(x) @ s.k(x).mT).softmax(-1) @ s.v(x)),
    "fused": lambda s, x: F.scaled_dot_product_attention(s.q(x), s.k(x), s.v(x)),
    "einsum": lambda s, x: torch.einsum("nqk,nkc->nqc", torch.einsum("nqc,nkc->nqk", s.q(x), s.k(x)), s.v(x)),
    "heads": lambda s, x: F.scaled_dot_product_attention(*(heads(p(x)) for p in (s.q, s.k, s.v)))
    .transpose(1, 2).flatten(2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cuttable"),
    [
        ("matmul", {"embed": 8, "q": 8, "v": 8}),
        ("fused", {"embed": 8, "v": 8}),  # the number of queries' channels sets the scale
        ("einsum", {"embed": 8, "q": 8, "v": 8}),
        ("heads", {"embed": 8, "v": 4}),
    ],
)
def test_attention_written_by_hand_loses_channels_of_its_heads(name: str, cuttable: dict[str, int]) -> None:
    parts = {part: nn.Linear(8, 8) for part in ("q", "k", "v", "out")}
    groups = found(Tokens(lambda s, x: (x + s.out(ATTENTION[name](s, x))).mean(1), **parts))
    assert {group.name: group.num_channels for group in groups.cuttable} == cuttable
    assert [group.name for group in groups.cuttable if group.is_residual] == ["embed"]
    for group in groups.frozen[:-1]:
        assert "sets the scale of attention by its number" in group.reason


def test_a_class_token_and_places_go_with_the_tokens() -> None:
    parts = {"token": parameter(1, 1, 8), "place": parameter(1, 6, 8), "norm": nn.LayerNorm(8)}
    network = Tokens(lambda s, x: s.norm(torch.cat([s.token.expand(len(x), -1, -1), x], 1) + s.place)[:, 0], **parts)
    (group,) = found(network).cuttable
    assert group.name == "embed"
    assert {(m.module, m.side) for m in group.members} == {
        ("token", "dim2"), ("place", "dim2"), ("embed", "out"), ("norm", "out"), ("head", "in")
    }  # fmt: skip


def test_a_trace_leaves_no_hook_and_no_setting_behind() -> None:
    network = Tokens(lambda s, x: s.attend(x, x, x)[0].mean(1), attend=nn.MultiheadAttention(8, 2, batch_first=True))
    trace(network.eval(), Inputs.of(torch.randn(1, 5, 6)))
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_a_trace_that_takes_too_long_is_given_up() -> None:
    network = Body(lambda s, x: x).eval()
    with pytest.raises(OutOfTime):
        trace(network, Inputs.of(torch.randn(1, 3, 8, 8)), seconds=0)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(("flow", "exact"), [(lambda s, x: x, True), (lambda s, x: x.float().to(x.dtype), False)])
def test_a_trace_notes_numbers_of_less_than_float64(flow: Flow, exact: bool) -> None:
    network = Body(flow).double().eval()
    assert trace(network, Inputs.of(torch.randn(1, 3, 8, 8, dtype=torch.float64))).is_exact is exact
