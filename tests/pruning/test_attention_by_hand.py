"""Attention as transformers writes it: heads are groups, with fewer of keys, fixed sizes and a bias for each head."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.counts import ChannelCounts
from autoprune.cost.cost_model import CostModel, measure_network
from autoprune.pruning.channel_positions import tensor_shrinks
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import find_groups
from autoprune.pruning.surgery import shrink, zeroed

WIDTH, HEAD, TOKENS = 32, 4, 6


class Attention(nn.Module):
    """Queries, keys and values by linear layers.

    Args:
        heads: of queries.
        served: query heads that share a head of keys and values.
        is_fixed: whether keys and values are brought into heads by their numbers, as Whisper does.
        has_bias: whether each head adds a learned bias to its scores, as Swin does.
    """

    def __init__(self, heads: int, served: int, is_fixed: bool, has_bias: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.is_fixed = heads, heads // served, is_fixed
        self.query = nn.Linear(WIDTH, heads * HEAD)
        self.key, self.value = (nn.Linear(WIDTH, self.kv_heads * HEAD) for _ in range(2))
        self.out = nn.Linear(heads * HEAD, WIDTH)
        self.bias = nn.Parameter(torch.randn(2 * TOKENS - 1, heads)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        split = (*x.shape[:-1], -1, HEAD)
        fixed = (len(x), -1, self.kv_heads, HEAD) if self.is_fixed else split
        query = self.query(x).view(split).transpose(1, 2)
        key, value = (layer(x).view(fixed).transpose(1, 2) for layer in (self.key, self.value))
        shift = None
        if self.bias is not None:
            place = torch.arange(TOKENS)
            shift = self.bias[place[:, None] - place[None] + TOKENS - 1].permute(2, 0, 1)[None]
        shared = self.heads > self.kv_heads
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=shift, scale=0.5, enable_gqa=shared)
        return self.out(x.transpose(1, 2).reshape(*x.shape[:1], TOKENS, -1))


class Encoder(nn.Module):
    def __init__(self, *kind: int) -> None:
        super().__init__()
        self.words = nn.Embedding(20, WIDTH)
        self.layers = nn.ModuleList([Attention(8, *kind), Attention(8, *kind)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = self.norm(x + layer(x))
        return self.head(x.mean(1))


KINDS: dict[str, tuple[int, bool, bool]] = {
    "plain": (1, False, False),
    "two queries for a key": (2, False, False),
    "four queries for a key": (4, False, False),
    "fixed numbers": (1, True, False),
    "a bias for each head": (1, False, True),
}


@pytest.fixture(params=KINDS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    kind = KINDS[request.param]
    return Encoder(*kind).eval(), 8 // kind[0]


IDS = torch.randint(20, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def test_heads_are_groups_and_a_cut_is_the_same_as_zeroing(network: tuple[nn.Module, int]) -> None:
    dense, heads = network
    groups = find_groups(dense, IDS)
    found = {group.name: group.num_channels for group in groups.cuttable}
    assert {name.partition(".")[0] for name in found} == {"words", "layers"}
    assert [count for name, count in found.items() if name.startswith("layers")] == [heads, heads]
    assert [group.name for group in groups.frozen] == ["head"]
    draw = random.Random(0)
    lost = {g.name: sorted(draw.sample(range(g.num_channels), g.num_channels // 2)) for g in groups.cuttable}
    del lost["words"]  # a norm over channels is compared elsewhere
    double = dense.double()
    cut = plan_cut(double, groups.cuttable, lost)
    assert torch.allclose(shrink(double, cut)(IDS), zeroed(double, cut)(IDS), rtol=0, atol=1e-12)


def test_costs_of_heads_are_exact(network: tuple[nn.Module, int]) -> None:
    dense, _ = network
    groups = find_groups(dense, IDS).cuttable
    channels = {group.name: group.num_channels for group in groups}
    model = CostModel(dense, tensor_shrinks(dense, groups), channels, IDS)
    small = shrink(dense, plan_cut(dense, groups, {name: range(count // 2) for name, count in channels.items()}))
    kept = ChannelCounts({name: count - count // 2 for name, count in channels.items()})
    assert model.measure(kept).values == measure_network(small, IDS).values


class OwnAttention(nn.Module):
    """Attention that keeps its numbers as attributes, as people write it.

    Args:
        form: how queries, keys and values are made and brought into heads.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.heads, self.head_size, self.inner = form, WIDTH // HEAD, HEAD, WIDTH
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def in_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.form == "one layer, permuted":
            split = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, self.head_size)
            return split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "one layer, split":
            parts = self.qkv(x).split(self.inner, -1)
        else:
            parts = self.query(x), self.key(x), self.value(x)
        return tuple(part.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.in_heads(self.norm(x))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        return self.head(self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize("form", ["one layer, permuted", "one layer, split", "three layers, the number of heads alone"])
def test_heads_are_found_whose_number_is_an_attribute(form: str) -> None:
    torch.manual_seed(0)
    dense, x = OwnAttention(form).eval().double(), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    groups = find_groups(dense, x)
    found = {group.name: group.num_channels for group in groups.cuttable}
    attention = "query" if form.startswith("three") else "qkv"
    assert found == {attention: WIDTH // HEAD, "out": WIDTH}
    cut = plan_cut(dense, groups.cuttable, {attention: [1, 4, 5]})
    small = shrink(dense, cut)
    assert small.get_submodule(attention).weight.shape[0] == dense.get_submodule(attention).weight.shape[0] * 5 // 8
    assert torch.allclose(small(x), zeroed(dense, cut)(x), rtol=0, atol=1e-12)


PACKED: dict[str, Callable[[nn.Module, Tensor], tuple[Tensor, ...]]] = {
    "permuted": lambda own, qkv: qkv.view(*qkv.shape[:2], 3, own.heads, own.head_dim).permute(2, 0, 3, 1, 4).unbind(0),
    "chunked": lambda own, qkv: tuple(
        part.view(*qkv.shape[:2], own.heads, own.head_dim).transpose(1, 2) for part in qkv.chunk(3, -1)
    ),
    "head by head": lambda own, qkv: qkv.view(*qkv.shape[:2], own.heads, 3 * own.head_dim).transpose(1, 2).chunk(3, -1),
    "in the middle": lambda own, qkv: qkv.view(*qkv.shape[:2], own.heads, 3, own.head_dim).transpose(1, 2).unbind(3),
    "of open size": lambda own, qkv: qkv.view(*qkv.shape[:2], 3, own.heads, -1).permute(2, 0, 3, 1, 4).unbind(0),
}


class Packed(nn.Module):
    """One layer for queries, keys and values, with the size of a head and the scale as attributes.

    So channels of every head could go as well as whole heads.

    Args:
        packing: how its outputs are brought into heads.
        with_letters: whether the products are ``einsum``.
    """

    def __init__(self, packing: str, with_letters: bool) -> None:
        super().__init__()
        self.packing, self.with_letters = packing, with_letters
        self.heads, self.head_dim, self.scale, self.inner = WIDTH // HEAD, HEAD, HEAD**-0.5, WIDTH
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = PACKED[self.packing](self, self.qkv(x))
        if self.with_letters:
            scores = (torch.einsum("bhqd,bhkd->bhqk", query, key) * self.scale).softmax(-1)
            mixed = torch.einsum("bhqk,bhkd->bhqd", scores, value)
        else:
            mixed = ((query * self.scale) @ key.transpose(-1, -2)).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.inner))


@pytest.mark.parametrize("with_letters", [False, True])
@pytest.mark.parametrize("packing", PACKED)
def test_whole_heads_go_where_channels_of_every_head_could_too(packing: str, with_letters: bool) -> None:
    torch.manual_seed(0)
    layers = (Packed(packing, with_letters), nn.LayerNorm(WIDTH), Packed(packing, with_letters), nn.Linear(WIDTH, 3))
    dense, x = nn.Sequential(*layers).eval().double(), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    groups = find_groups(dense, x)
    found = {group.name: group.num_channels for group in groups.cuttable}
    assert found == {"0.qkv": WIDTH // HEAD, "0.out": WIDTH, "2.qkv": WIDTH // HEAD, "2.out": WIDTH}
    cut = plan_cut(dense, groups.cuttable, {"0.qkv": [1, 2], "2.qkv": [0, 3, 7]})
    small = shrink(dense, cut)
    assert (small[0].heads, small[0].inner, small[2].qkv.out_features) == (6, 24, 3 * 5 * HEAD)
    assert torch.allclose(small(x), zeroed(dense, cut)(x), rtol=0, atol=1e-12)


class OneKey(nn.Module):
    """One head of keys and values for all heads of queries (multi-query attention).

    Args:
        is_one_layer: whether one layer makes all of them.
        is_fused: whether PyTorch's own attention takes them.
    """

    def __init__(self, is_one_layer: bool, is_fused: bool) -> None:
        super().__init__()
        self.is_fused, self.heads, self.head_dim, self.inner = is_fused, WIDTH // HEAD, HEAD, WIDTH
        self.query = None if is_one_layer else nn.Linear(WIDTH, WIDTH)
        self.qkv = nn.Linear(WIDTH, (WIDTH if is_one_layer else 0) + 2 * HEAD)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.query is None:
            query, key, value = self.qkv(x).split([self.inner, self.head_dim, self.head_dim], -1)
        else:
            query, (key, value) = self.query(x), self.qkv(x).chunk(2, -1)
        query = query.view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)
        key, value = (each[:, None] for each in (key, value))
        if self.is_fused:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(-1, -2) * self.head_dim**-0.5).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], self.inner))


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("is_one_layer", [False, True])
def test_heads_of_queries_go_that_share_one_key(is_one_layer: bool, is_fused: bool) -> None:
    torch.manual_seed(0)
    layers = (OneKey(is_one_layer, is_fused), nn.LayerNorm(WIDTH), OneKey(is_one_layer, is_fused), nn.Linear(WIDTH, 3))
    dense, x = nn.Sequential(*layers).eval().double(), torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    groups, name = find_groups(dense, x), "qkv" if is_one_layer else "query"
    found = {group.name: group.num_channels for group in groups.cuttable}
    assert found == {f"0.{name}": 8, "0.out": WIDTH, f"2.{name}": 8, "2.out": WIDTH}
    assert {group.name.partition("[")[0] for group in groups.frozen} == {"0.qkv", "2.qkv", "3"}, "key and value stay"
    cut = plan_cut(dense, groups.cuttable, {f"0.{name}": [1, 2], f"2.{name}": [0, 3, 7]})
    small = shrink(dense, cut)
    assert (small[0].heads, small[0].inner, small[2].out.in_features) == (6, 24, 5 * HEAD)
    assert torch.allclose(small(x), zeroed(dense, cut)(x), rtol=0, atol=1e-12)


class Counting(nn.Module):
    """Looks at its input in a way that depends on it, before norms take their statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.head = nn.Embedding(20, 16), Squares(), nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        if len(ids) > 1:
            ids.float().sum()
        return self.head(self.norm(self.words(ids)).mean(1))


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("build", [Counting])
def test_statistics_are_known_by_the_module_that_takes_them(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    assert [group.name for group in find_groups(build().eval(), IDS).cuttable] == ["words"]


def test_blocks_of_attention_are_left_to_their_owner() -> None:
    torch.manual_seed(0)
    assert find_blocks(Encoder(1, False, False).eval(), IDS) == ()


class Grouped(nn.Module):
    """Two queries to a key, all numbers written down, as Llama's own code does.

    Args:
        repeats: how keys and values are repeated.
    """

    def __init__(self, repeats: str) -> None:
        super().__init__()
        self.repeats, self.n_heads, self.n_kv_heads, self.head_dim, self.n_rep, self.inner = repeats, 8, 4, 6, 2, 48
        self.wq, self.wo = nn.Linear(WIDTH, self.inner), nn.Linear(self.inner, WIDTH)
        self.wk, self.wv = (nn.Linear(WIDTH, self.n_kv_heads * self.head_dim) for _ in range(2))

    def repeated(self, x: Tensor) -> Tensor:
        if self.repeats == "interleaved":
            return x.repeat_interleave(self.n_heads // self.n_kv_heads, 2)
        batch, tokens = x.shape[:2]
        wide = x[:, :, :, None].expand(batch, tokens, self.n_kv_heads, self.n_rep, self.head_dim)
        return wide.reshape(batch, tokens, self.n_kv_heads * self.n_rep, self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query = self.wq(x).view(batch, tokens, self.n_heads, self.head_dim)
        key = self.wk(x).view(batch, tokens, self.n_kv_heads, self.head_dim)
        value = self.wv(x).view(batch, tokens, self.n_kv_heads, self.head_dim)
        query, key, value = (each.transpose(1, 2) for each in (query, self.repeated(key), self.repeated(value)))
        scores = (query @ key.transpose(2, 3) * self.head_dim**-0.5).softmax(-1)
        return self.wo((scores @ value).transpose(1, 2).contiguous().view(batch, tokens, self.inner))


@pytest.mark.parametrize("repeats", ["interleaved", "expanded"])
def test_queries_that_share_a_key_are_found_with_every_number_written_down(repeats: str) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(Grouped(repeats), nn.LayerNorm(WIDTH), Grouped(repeats), nn.Linear(WIDTH, 3)).eval().double()
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    groups = find_groups(dense, x)
    found = {group.name: group.num_channels for group in groups.cuttable}
    assert (found.get("0.wq"), found.get("2.wq")) == (4, 4), groups.frozen
    cut = plan_cut(dense, groups.cuttable, {"0.wq": [1, 2], "2.wq": [3]})
    small = shrink(dense, cut)
    assert (small[0].n_heads, small[0].n_kv_heads, small[0].inner) == (4, 2, 24)
    assert torch.allclose(small(x), zeroed(dense, cut)(x), rtol=0, atol=1e-12)
