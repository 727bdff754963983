"""Attention loses heads and channels as zeroing says, for every module that is known, and computes the same before.

Everything runs in float64, so that a wrong channel cannot hide behind rounding.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from autoprune.errors import ModelError
from autoprune.pruning.cut_plan import KeptChannels
from autoprune.pruning.layers.attention import ATTENTION_KINDS
from autoprune.pruning.layers.attention_heads import Packing
from autoprune.pruning.layers.axes import LayerKind, tensor_of
from autoprune.pruning.layers.window_attention import join_windows, split_windows
from autoprune.pruning.surgery import shrink
from autoprune.pruning.surgery import zeroed as zeroed_network

NESTED = "ignore:The PyTorch API of nested tensors is in prototype stage"

Sides = Mapping[str, tuple[int, ...]]
HEADS = {"heads": (1, 3)}
CHANNELS = {"in": tuple(range(0, 24, 2)), "out": (0, 1, 5, 9, 10, 23)}
CUTS = [HEADS, {"heads": (2,)}, CHANNELS, {"in": (3, 4)}, {"out": (3, 4)}, HEADS | CHANNELS]


class TimmAttention(nn.Module):
    """A stand-in for timm's module, which need not be installed: the same parts, computed in the plainest way."""

    def __init__(self, norm: type[nn.Module] | None = None, fused: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.fused_attn = 4, 6, 6**-0.5, fused
        self.qkv = nn.Linear(24, 72, bias=bias)
        self.q_norm = norm(6) if norm else nn.Identity()
        self.k_norm = norm(6) if norm else nn.Identity()
        self.attn_drop, self.proj, self.proj_drop = nn.Dropout(0.0), nn.Linear(24, 24), nn.Dropout(0.0)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 4, 6).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        else:
            scores = (q * self.scale) @ k.transpose(-2, -1)
            if is_causal:
                attn_mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
            if attn_mask is not None:
                scores = scores.masked_fill(~attn_mask, -torch.inf)
            x = self.attn_drop(scores.softmax(dim=-1)) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, width)))


def as_timm(module: str, **options: Any) -> nn.Module:
    """Return the stand-in as if it came from a module of timm."""
    named = type("Attention", (TimmAttention,), {"__module__": module})
    return named(**options)


@dataclass(frozen=True)
class Case:
    """A module with four heads of six channels, how it is called, and where its input has its channels."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Callable[..., Any] = lambda module, x: module(x)


def itself(module: nn.Module, x: Tensor) -> Tensor:
    return module(x, x, x, need_weights=False)[0]


def across(module: nn.Module, x: Tensor) -> Tensor:
    """Attend from one sequence to a shorter one."""
    first = getattr(module, "batch_first", True)
    memory = (x[:, :3] if first else x[:3]).sin()
    return module(x, memory, memory)[0]


CASES = [
    Case("multi-head", lambda: nn.MultiheadAttention(24, 4, batch_first=True), (2, 7, 24), itself),
    Case("multi-head, no bias", lambda: nn.MultiheadAttention(24, 4, bias=False), (7, 2, 24), itself),
    Case("multi-head across", lambda: nn.MultiheadAttention(24, 4, batch_first=True), (2, 7, 24), across),
    Case("multi-head across, length first", lambda: nn.MultiheadAttention(24, 4), (7, 2, 24), across),
    Case("swin", lambda: ShiftedWindowAttention(24, [4, 2], [0, 0], 4), (2, 8, 6, 24)),
    Case("swin, shifted, padded", lambda: ShiftedWindowAttention(24, [4, 3], [2, 1], 4, qkv_bias=False), (2, 9, 7, 24)),
    Case("swin, one shift only", lambda: ShiftedWindowAttention(24, [4, 4], [2, 2], 4, proj_bias=False), (2, 4, 8, 24)),
    Case("swin v2", lambda: ShiftedWindowAttentionV2(24, [4, 4], [2, 2], 4), (2, 8, 8, 24)),
    Case("swin v2, no bias", lambda: ShiftedWindowAttentionV2(24, [2, 4], [0, 2], 4, qkv_bias=False), (2, 5, 9, 24)),
    Case("maxvit", lambda: RelativePositionalMultiHeadAttention(24, 6, 9), (2, 5, 9, 24)),
    Case("timm", lambda: as_timm("timm.models.vision_transformer"), (2, 7, 24)),
    Case(
        "timm, normed, not fused", lambda: as_timm("timm.layers.attention", norm=nn.LayerNorm, fused=False), (2, 7, 24)
    ),
    Case("timm, no bias", lambda: as_timm("timm.layers.attention", bias=False), (2, 7, 24)),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def kind_of(module: nn.Module) -> LayerKind:
    [kind] = [kind for kind in ATTENTION_KINDS if kind.matches(module)]
    return kind


def made(case: Case) -> tuple[nn.Module, Tensor]:
    """Return a module in eval mode with no tensor at its tame initial values, and an input."""
    torch.manual_seed(0)
    module = case.build().double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module, torch.randn(case.shape, dtype=torch.float64)


def put(module: nn.Module, name: str, value: Tensor) -> None:
    holder, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(holder), leaf, nn.Parameter(value))


def cut(module: nn.Module, kept: Sides) -> nn.Module:
    """Return what surgery makes of a module."""
    return shrink(nn.ModuleDict({"it": module}), {"it": KeptChannels(kept)})["it"]


def zeroed(module: nn.Module, kept: Sides) -> nn.Module:
    """Return the dense module with everything that is not kept at zero, by the description of its kind alone."""
    kind, twin = kind_of(module), copy.deepcopy(module)
    for axis in kind.axes(module):
        tensor = tensor_of(twin, axis.tensor)
        if axis.side in kept and tensor is not None:
            gone = set(range(kind.sizes(module)[axis.side])) - set(kept[axis.side])
            index = torch.tensor(sorted(axis.positions(gone)))
            put(twin, axis.tensor, tensor.detach().index_fill(axis.dim, index, 0))
    return twin


def replace(network: nn.Module, path: str, module: nn.Module) -> None:
    holder, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(holder), leaf, module)


# before the cut


@every_case
@pytest.mark.parametrize("training", [False, True])
def test_the_slim_module_is_the_dense_one(case: Case, training: bool) -> None:
    module, x = made(case)
    module.train(training)
    slim = kind_of(module).slim(copy.deepcopy(module))
    assert slim.training is training
    assert {name: tuple(t.shape) for name, t in slim.state_dict().items()} == {
        name: tuple(t.shape) for name, t in module.state_dict().items()
    }
    assert list(slim.state_dict()) == list(module.state_dict())
    torch.testing.assert_close(case.call(slim, x), case.call(module, x), rtol=0, atol=1e-13)


@every_case
def test_the_slim_module_learns_as_the_dense_one(case: Case) -> None:
    module, x = made(case)
    slim = kind_of(module).slim(copy.deepcopy(module))
    for one in (module.train(), slim.train()):
        case.call(one, x).square().sum().backward()
    grads = {name: parameter.grad for name, parameter in slim.named_parameters()}
    assert grads.keys() == dict(module.named_parameters()).keys()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-9, atol=1e-9)


@every_case
def test_the_dense_module_stays_as_it_was(case: Case) -> None:
    module, x = made(case)
    before, state = case.call(module, x), copy.deepcopy(module.state_dict())
    cut(module, HEADS | CHANNELS)
    torch.testing.assert_close(case.call(module, x), before, rtol=0, atol=0)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


# the oracle


@every_case
@pytest.mark.parametrize("kept", CUTS, ids=lambda kept: "+".join(kept))
def test_a_cut_is_a_zeroing(case: Case, kept: Sides) -> None:
    module, x = made(case)
    everything = {side: tuple(range(size)) for side, size in kind_of(module).sizes(module).items()}
    chosen = everything | dict(kept)
    dense = case.call(module, x)[..., chosen["out"]]
    expected = case.call(zeroed(module, kept), x)[..., chosen["out"]]
    small = cut(module, kept)
    actual = case.call(small, x[..., chosen["in"]])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    assert actual.isfinite().all()
    if "in" in kept or "heads" in kept:
        assert (actual - dense).abs().max() > 1e-2
    masked = zeroed_network(nn.ModuleDict({"it": module}), {"it": KeptChannels(kept)})["it"]
    torch.testing.assert_close(case.call(masked, x)[..., chosen["out"]], expected, rtol=0, atol=0)
    assert kind_of(small).sizes(small) == {side: len(channels) for side, channels in chosen.items()}


@every_case
def test_what_was_cut_can_be_cut_again(case: Case) -> None:
    module, x = made(case)
    twice = cut(cut(module, {"heads": (0, 2, 3), "out": tuple(range(2, 24))}), {"heads": (1, 2), "in": (1, 2, 8)})
    once = cut(module, {"heads": (2, 3), "out": tuple(range(2, 24)), "in": (1, 2, 8)})
    x = x[..., :3]
    torch.testing.assert_close(case.call(twice, x), case.call(once, x), rtol=0, atol=0)


@every_case
def test_the_sizes_written_down_are_those_of_the_tensors(case: Case) -> None:
    module, _ = made(case)
    small = cut(module, HEADS | CHANNELS)
    for child in small.modules():
        if isinstance(child, nn.Linear):
            assert (child.out_features, child.in_features) == tuple(child.weight.shape)
    assert kind_of(small).axes(small)[0].block == 6


@every_case
def test_every_tensor_with_heads_is_named(case: Case) -> None:
    """A tensor whose shape depends on the heads, but is not cut, would break the forward pass or hide a leak."""
    module, _ = made(case)
    kind, named = kind_of(module), set()
    for axis in kind.axes(module):
        tensor = tensor_of(module, axis.tensor)
        if tensor is not None:
            named.add(axis.tensor)
            positions = axis.positions(range(kind.sizes(module)[axis.side]))
            assert sorted(positions) == list(range(tensor.shape[axis.dim]))
    free = {"cpb_mlp.0.weight", "cpb_mlp.0.bias", *(f"{x}_norm.{name}" for x in "qk" for name in ("weight", "bias"))}
    assert {name for name, _ in module.named_parameters()} <= named | free


# what a network needs of its parts


@every_case
def test_the_cut_module_is_copied_pickled_and_trained(case: Case) -> None:
    module, x = made(case)
    small, x = cut(module, HEADS | CHANNELS), x[..., :12]
    expected = case.call(small, x)
    for twin in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        torch.testing.assert_close(case.call(twin, x), expected, rtol=0, atol=0)
    case.call(small.train(), x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


class Called(nn.Module):
    """A call as a module, for the exporter."""

    def __init__(self, module: nn.Module, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.module, x)


@every_case
def test_the_cut_module_is_exported(case: Case) -> None:
    module, x = made(case)
    small = Called(cut(module, HEADS | CHANNELS), case.call).eval()
    x = x[..., :12]
    exported = torch.export.export(small, (x,)).module()
    torch.testing.assert_close(exported(x), small(x), rtol=0, atol=1e-12)


def test_hooks_and_parameters_move_along() -> None:
    module, calls = nn.MultiheadAttention(24, 4), []
    module.register_forward_hook(lambda *_: calls.append(1))
    slim = kind_of(module).slim(module)
    slim(*3 * [torch.randn(5, 2, 24)])
    assert calls == [1]
    assert slim.in_proj_weight is module.in_proj_weight
    assert kind_of(slim).slim(slim) is slim


def test_what_is_replaced_in_the_slim_module_is_not_replaced_in_the_dense_one() -> None:
    module = nn.MultiheadAttention(24, 4)
    weight = module.in_proj_weight
    put(kind_of(module).slim(module), "in_proj_weight", torch.zeros(36, 24))
    assert module.in_proj_weight is weight


def test_multihead_attention_says_what_width_it_reads() -> None:
    small = cut(nn.MultiheadAttention(24, 4), HEADS | CHANNELS)
    assert (small.embed_dim, small.kdim, small.vdim, small.num_heads, small.head_dim) == (12, 12, 12, 2, 6)


# PyTorch's own module, called in all its ways


def multihead(batch_first: bool = True, dropout: float = 0.0) -> nn.MultiheadAttention:
    torch.manual_seed(1)
    module = nn.MultiheadAttention(24, 4, dropout, batch_first=batch_first).double().eval()
    nn.init.normal_(module.in_proj_bias)
    return module


def call_all_ways() -> list[dict[str, Any]]:
    torch.manual_seed(2)
    causal = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    padding = torch.arange(7) >= torch.tensor([7, 4])[:, None]
    added = torch.randn(7, 7, dtype=torch.float64)
    by_head = torch.randn(8, 7, 7, dtype=torch.float64)
    weights = [{"need_weights": False}, {"average_attn_weights": True}, {"average_attn_weights": False}]
    masks: list[dict[str, Any]] = [
        {},
        {"key_padding_mask": padding},
        {"attn_mask": causal.isinf()},
        {"attn_mask": added},
        {"attn_mask": by_head},
        {"attn_mask": by_head > 1},
        {"attn_mask": causal.isinf(), "key_padding_mask": padding},
        {"attn_mask": causal, "is_causal": True},
        {"attn_mask": causal.isinf(), "key_padding_mask": padding, "is_causal": True},
    ]
    return [mask | weight for mask in masks for weight in weights]


WAYS = call_all_ways()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: ", ".join(way))
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention_answers_every_call_alike(way: dict[str, Any], batch_first: bool, training: bool) -> None:
    module = multihead(batch_first).train(training)
    slim = kind_of(module).slim(copy.deepcopy(module))
    x = torch.randn((2, 7, 24) if batch_first else (7, 2, 24), dtype=torch.float64)
    with torch.set_grad_enabled(training):  # without gradients PyTorch takes its fused kernel
        expected, actual = module(x, x, x, **way), slim(x, x, x, **way)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("way", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_single_sequence_needs_no_batch(way: dict[str, Any], batch_first: bool) -> None:
    module, x = multihead(batch_first), torch.randn(7, 24, dtype=torch.float64)
    masks = {"attn_mask": torch.randn(4, 7, 7, dtype=torch.float64), "key_padding_mask": torch.zeros(7).double()}
    slim = kind_of(module).slim(copy.deepcopy(module))
    torch.testing.assert_close(slim(x, x.sin(), x, **masks, **way), module(x, x.sin(), x, **masks, **way))


def test_weights_are_those_of_the_heads_that_stay() -> None:
    module, x = multihead(), torch.randn(2, 7, 24, dtype=torch.float64)
    small = cut(module, HEADS)
    by_head = module(x, x, x, average_attn_weights=False)[1]
    torch.testing.assert_close(small(x, x, x, average_attn_weights=False)[1], by_head[:, [1, 3]])
    torch.testing.assert_close(small(x, x, x)[1], by_head[:, [1, 3]].mean(1))


def test_a_mask_per_head_may_be_that_of_the_dense_heads() -> None:
    module, x = multihead(), torch.randn(2, 7, 24, dtype=torch.float64)
    mask = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    small = cut(cut(module, {"heads": (0, 1, 3)}), {"heads": (1, 2)})
    expected = zeroed(module, HEADS)(x, x, x, attn_mask=mask.flatten(0, 1))[0]
    torch.testing.assert_close(small(x, x, x, attn_mask=mask.flatten(0, 1))[0], expected)
    torch.testing.assert_close(small(x, x, x, attn_mask=mask[:, [1, 3]].flatten(0, 1))[0], expected)
    with pytest.raises(RuntimeError, match="3 slices per sequence; one per head is expected, 2, or 4"):
        small(x, x, x, attn_mask=mask[:, :3].flatten(0, 1))


def test_a_causal_hint_needs_its_mask() -> None:
    small, x = cut(multihead(), HEADS), torch.randn(2, 7, 24, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="pass that mask too"):
        small(x, x, x, is_causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_is_on_in_training_only(need_weights: bool) -> None:
    small, x = cut(multihead(dropout=0.5), HEADS), torch.randn(2, 7, 24, dtype=torch.float64)
    first, second = (small.train()(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (small.eval()(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert torch.equal(first, second)


# each of the other modules' peculiarities


def test_the_scale_of_maxvit_stays_that_of_the_dense_width() -> None:
    module = RelativePositionalMultiHeadAttention(24, 6, 9)
    assert cut(module, HEADS | CHANNELS).scale_factor == module.scale_factor == 24**-0.5


def test_cosine_attention_bears_zeroed_heads() -> None:
    module, x = made(next(case for case in CASES if case.name == "swin v2"))
    twin = zeroed(module, HEADS)
    twin.proj.weight = module.proj.weight  # so that only the zeroed values make the head vanish
    torch.testing.assert_close(cut(module, HEADS)(x), twin(x))
    assert twin(x).isfinite().all()


def test_the_keys_of_swin_v2_have_no_bias_even_if_one_was_learned() -> None:
    module, x = made(next(case for case in CASES if case.name == "swin v2"))
    assert module.qkv.bias[24:48].abs().min() > 0
    small = cut(module, HEADS)
    expected = small(x)
    with torch.no_grad():
        small.qkv.bias[12:24] = 7
    torch.testing.assert_close(small(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("way", [{"is_causal": True}, {"attn_mask": torch.ones(7, 7).tril(2).bool()}], ids=str)
def test_timm_masks_say_what_may_be_seen(fused: bool, way: dict[str, Any]) -> None:
    module = as_timm("timm.layers.attention", fused=fused).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(cut(module, HEADS)(x, **way), zeroed(module, HEADS)(x, **way))


def test_windows_are_joined_as_they_were_split() -> None:
    x = torch.arange(2 * 6 * 8 * 3).view(2, 6, 8, 3)
    windows = split_windows(x, (3, 2))
    assert windows.shape == (16, 6, 3)
    assert torch.equal(windows[1], x[0, :3, 2:4].reshape(6, 3))
    assert torch.equal(join_windows(windows, (3, 2), (6, 8)), x)


# what is left alone


class Own(nn.MultiheadAttention):
    """An attention module of unknown behaviour."""


def with_norm(joint: nn.Module) -> nn.Module:
    module = as_timm("timm.layers.attention")
    module.norm = joint
    return module


@pytest.mark.parametrize(
    "module",
    [
        nn.MultiheadAttention(24, 4, add_bias_kv=True),
        nn.MultiheadAttention(24, 4, add_zero_attn=True),
        nn.MultiheadAttention(24, 4, kdim=12),
        Own(24, 4),
        TimmAttention(),
        as_timm("timm.models.vision_transformer_sam"),
        with_norm(nn.LayerNorm(24)),
        nn.Linear(24, 24),
    ],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_are_not_taken_for_attention(module: nn.Module) -> None:
    assert [kind.name for kind in ATTENTION_KINDS if kind.matches(module)] == []


def test_a_norm_that_is_switched_off_does_no_harm() -> None:
    assert kind_of(with_norm(nn.Identity())).name == "timm attention"


def test_a_tensor_that_is_missing_is_named() -> None:
    with pytest.raises(ModelError, match="MultiheadAttention has no tensor 'in_proj_weight'"):
        Packing("in_proj_weight", "in_proj_bias", "out_proj").sizes(nn.MultiheadAttention(24, 4, kdim=12))


# inside networks


def encoder(layers: int = 3, heads: int = 4, norm_first: bool = False) -> nn.TransformerEncoder:
    torch.manual_seed(3)
    layer = nn.TransformerEncoderLayer(24, heads, 32, dropout=0.1, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=not norm_first).double().eval()


@pytest.mark.filterwarnings(NESTED)
@pytest.mark.parametrize("kept", [(1, 3), (2,), (0, 1, 3)])
@pytest.mark.parametrize("where", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_works_with_fewer_heads(
    kept: tuple[int, ...], where: tuple[int, ...], gradients: bool, padded: bool
) -> None:
    """Without gradients PyTorch tries fused kernels, and between layers nested tensors if there is padding."""
    small, twin = encoder(), encoder()
    for layer in where:
        path = f"layers.{layer}.self_attn"
        replace(small, path, cut(small.get_submodule(path), {"heads": kept}))
        replace(twin, path, zeroed(twin.get_submodule(path), {"heads": kept}))
    x = torch.randn(3, 7, 24, dtype=torch.float64)
    padding = torch.arange(7) >= torch.tensor([7, 4, 2])[:, None] if padded else None
    with torch.set_grad_enabled(gradients):
        actual, expected = (network(x, src_key_padding_mask=padding) for network in (small, twin))
    there = slice(None) if padding is None else ~padding  # what is put into the padding depends on the kernel
    torch.testing.assert_close(actual[there], expected[there], rtol=0, atol=1e-12)
    assert (actual[there] - encoder()(x, src_key_padding_mask=padding)[there]).abs().max() > 1e-3


@pytest.mark.parametrize("gradients", [True, False])
def test_an_encoder_layer_works_with_fewer_channels(gradients: bool) -> None:
    """Half of the stream is cut everywhere; the layer norms then see other statistics, so only the call is tested."""
    layer = encoder(1, norm_first=True).layers[0]
    half = tuple(range(12))
    layer.self_attn = cut(layer.self_attn, {"in": half, "out": half})
    layer.norm1, layer.norm2 = nn.LayerNorm(12).double(), nn.LayerNorm(12).double()
    layer.linear1, layer.linear2 = nn.Linear(12, 32).double(), nn.Linear(32, 12).double()
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        first = x + layer.self_attn(*3 * [layer.norm1(x)])[0]
        torch.testing.assert_close(layer(x), first + layer.linear2(layer.linear1(layer.norm2(first)).relu()))


def test_a_decoder_works_with_fewer_heads() -> None:
    torch.manual_seed(4)
    layer = nn.TransformerDecoderLayer(24, 4, 32, batch_first=True).double().eval()
    small, twin = copy.deepcopy(layer), copy.deepcopy(layer)
    for path in ("self_attn", "multihead_attn"):
        replace(small, path, cut(getattr(layer, path), HEADS))
        replace(twin, path, zeroed(getattr(layer, path), HEADS))
    x, memory = torch.randn(2, 7, 24, dtype=torch.float64), torch.randn(2, 5, 24, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            outputs = [one(x, memory, tgt_mask=mask, tgt_is_causal=True) for one in (small, twin)]
        torch.testing.assert_close(*outputs)


def swin(block: str) -> nn.Module:
    v2 = zoo.swin_transformer.SwinTransformerBlockV2, zoo.swin_transformer.PatchMergingV2
    options = {"block": v2[0], "downsample_layer": v2[1]} if block == "v2" else {}
    return zoo.SwinTransformer([2, 2], 24, [2, 2], [4, 4], [4, 4], num_classes=5, **options)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ViT": (lambda: zoo.VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=5), 2),
    "Swin": (lambda: swin("v1"), 4),
    "Swin V2": (lambda: swin("v2"), 4),
    "MaxViT": (lambda: zoo.MaxVit((64, 64), 8, 2, [24], [1], 6, 0.0, num_classes=5), 2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_fewer_heads_is_the_zeroed_network(name: str) -> None:
    build, count = NETWORKS[name]
    torch.manual_seed(5)
    dense = build().double().eval()
    for parameter in dense.parameters():  # biases and the last layer often start at zero
        nn.init.normal_(parameter, std=0.3)
    paths = [path for path, module in dense.named_modules() if any(kind.matches(module) for kind in ATTENTION_KINDS)]
    assert len(paths) == count
    small, twin = shrink(dense, {path: KeptChannels(HEADS) for path in paths}), copy.deepcopy(dense)
    for path in paths:
        replace(twin, path, zeroed(dense.get_submodule(path), HEADS))
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)[
        ..., : 32 if name == "ViT" else 64, : 32 if name == "ViT" else 64
    ]
    with torch.no_grad():
        actual, expected, before = small(x), twin(x), dense(x)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert (actual - before).abs().max() > 1e-3
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())
