"""Each kind of layer says where its channels lie, and computes without them what it computes with zeros."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from pruning_nets import Body, Flow, Tokens, outputs, random_cut
from torch import Tensor, nn

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.cut_plan import KeptChannels
from autoprune.pruning.groups import find_groups
from autoprune.pruning.layers.axes import Axis, tensor_of
from autoprune.pruning.layers.kinds import KINDS, axes_of, kind_of
from autoprune.pruning.surgery import shrink, zeroed


@dataclass(frozen=True)
class Case:
    """A layer within a network, and its members: group → (module, side, width).

    Attributes:
        network: a :class:`Body` or :class:`Tokens`.
        members: of the groups that the layer belongs to.
    """

    network: nn.Module
    members: Mapping[str, set[tuple[str, str, int]]]


def image(part: nn.Module, channels: int = 8, **members: set[tuple[str, str, int]]) -> Case:
    return Case(Body(lambda s, x: s.layer(x), channels, layer=part), members)


def normed(layer: nn.Module, width: int = 1) -> Case:
    """Return a norm after the stem: its channels are the stem's."""
    return image(layer, stem={("stem", "out", width), ("layer", "out", width), ("plain", "in", width)})


def channels_last(layer: nn.Module) -> Case:
    """Return a norm that permutations put around the last dimension, as in LayerNorm2d."""
    network = Body(lambda s, x: s.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), layer=layer)
    return Case(network, {"stem": {("stem", "out", 1), ("layer", "out", 1), ("plain", "in", 1)}})


def two(layer: nn.Module, channels: int = 8) -> Case:
    """Return a layer that makes channels of its own out of the stem's."""
    mine = {("layer", "out", 1), ("plain", "in", 1)}
    return image(layer, channels, stem={("stem", "out", 1), ("layer", "in", 1)}, layer=mine)


def grouped(layer: nn.Module, width: int, channels: int = 8) -> Case:
    """Return a grouped convolution of 8 inputs: what a group reads and makes goes together."""
    made = channels * width // 8
    sides = {("stem", "out", width), ("layer", "in", width), ("layer", "out", made), ("plain", "in", made)}
    return image(layer, channels, stem=sides)


def recurrent(kind: type[nn.RNNBase], layers: int, directions: int, flow: Flow | None = None, read: int = 0) -> Case:
    """Return a recurrent layer whose unit h of every depth and direction is one channel."""
    read = read or directions
    layer = kind(8, 6, num_layers=layers, bidirectional=directions == 2, batch_first=True)
    network = Tokens(flow or (lambda s, x: s.layer(x)[0].mean(1)), 6 * read, layer=layer)
    units = {("layer", "out", layers * directions), ("head", "in", read)}
    return Case(network, {"embed": {("embed", "out", 1), ("layer", "in", 1)}, "layer": units})


def time_first(s: Tokens, x: Tensor) -> Tensor:
    return s.layer(x.transpose(0, 1).contiguous().transpose(0, 1))[0][:, -1]


def joined(s: Tokens, x: Tensor) -> Tensor:
    states = s.layer(x)[1][0]
    return torch.cat([states[-1], states[-2]], 1)


CASES: Mapping[str, Case] = {
    "batch norm": normed(nn.BatchNorm2d(8)),
    "batch norm without parameters": normed(nn.BatchNorm2d(8, affine=False)),
    "batch norm without statistics": normed(nn.BatchNorm2d(8, track_running_stats=False)),
    "instance norm": normed(nn.InstanceNorm2d(8, affine=True)),
    "instance norm without parameters": normed(nn.InstanceNorm2d(8)),
    "instance norm with statistics": normed(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    "group norm, one group": normed(nn.GroupNorm(1, 8)),
    "group norm, two groups": normed(nn.GroupNorm(2, 8), width=2),
    "group norm, four groups": normed(nn.GroupNorm(4, 8), width=2),
    "group norm, a group each": normed(nn.GroupNorm(8, 8)),
    "group norm without parameters": normed(nn.GroupNorm(4, 8, affine=False), width=2),
    "layer norm": channels_last(nn.LayerNorm(8)),
    "root-mean-square norm": channels_last(nn.RMSNorm(8)),
    "layer norm without parameters": channels_last(nn.LayerNorm(8, elementwise_affine=False)),
    "layer norm without bias": channels_last(nn.LayerNorm(8, bias=False)),
    "PReLU": normed(nn.PReLU(8)),
    "PReLU of one slope": image(nn.PReLU(), stem={("stem", "out", 1), ("plain", "in", 1)}),
    "convolution": two(nn.Conv2d(8, 9, 3, bias=False), 9),
    "circular convolution": two(nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")),
    "transposed convolution": two(nn.ConvTranspose2d(8, 9, 3, stride=2), 9),
    "grouped convolution": grouped(nn.Conv2d(8, 12, 3, groups=4), 2, 12),
    "depthwise convolution": grouped(nn.Conv2d(8, 8, 3, groups=8), 1),
    "depthwise convolution, two each": grouped(nn.Conv2d(8, 16, 3, groups=8), 1, 16),
    "grouped transposed convolution": grouped(nn.ConvTranspose2d(8, 12, 3, groups=4), 2, 12),
    "depthwise transposed convolution": grouped(nn.ConvTranspose2d(8, 8, 3, groups=8), 1),
    "last state": recurrent(nn.GRU, 2, 1, lambda s, x: s.layer(x)[1][-1]),
    "last states of both directions": recurrent(nn.LSTM, 1, 2, joined),
    "last cell": recurrent(nn.LSTM, 1, 1, lambda s, x: s.layer(x)[1][1][-1]),
    "time first": recurrent(nn.LSTM, 1, 1, time_first),
    "packed": recurrent(
        nn.GRU, 1, 1, lambda s, x: s.layer(nn.utils.rnn.pack_padded_sequence(x, [5] * len(x), True))[1][-1]
    ),
    **{
        f"{kind.__name__}, {layers} layers, {directions} directions": recurrent(kind, layers, directions)
        for kind in (nn.LSTM, nn.GRU, nn.RNN) for layers in (1, 2) for directions in (1, 2)
    },
    "attention": Case(
        Tokens(lambda s, x: s.layer(x, x, x)[0].mean(1), layer=nn.MultiheadAttention(8, 2, batch_first=True)),
        {
            "embed": {("embed", "out", 1), ("layer", "in", 1)},
            "layer": {("layer", "heads", 1)},
            "layer[0:]": {("layer", "out", 1), ("head", "in", 1)},
        },
    ),
    "encoder layer": Case(
        Tokens(lambda s, x: s.layer(x).mean(1), layer=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)),
        {
            "embed": {("embed", "out", 1), ("head", "in", 1), *((f"layer.{name}", side, 1) for name, side in [
                ("self_attn", "in"), ("self_attn", "out"), ("linear1", "in"), ("linear2", "out"),
                ("norm1", "out"), ("norm2", "out"),
            ])},
            "layer.self_attn": {("layer.self_attn", "heads", 1)},
            "layer.linear1": {("layer.linear1", "out", 1), ("layer.linear2", "in", 1)},
        },
    ),
}  # fmt: skip


def groups_of(network: nn.Module) -> tuple[PruningGroup, ...]:
    return find_groups(network.eval(), torch.randn(network.example)).cuttable


@pytest.mark.parametrize("name", CASES)
def test_a_layer_belongs_to_the_groups_that_it_must(name: str) -> None:
    groups = {group.name: group for group in groups_of(CASES[name].network)}
    assert set(groups) - {"plain"} == set(CASES[name].members)
    for group, members in CASES[name].members.items():
        assert {(m.module, m.side, m.width) for m in groups[group].members} == members


@pytest.mark.parametrize("name", CASES)
def test_a_layer_that_was_cut_computes_what_zeroing_says(name: str) -> None:
    torch.manual_seed(0)
    network = copy.deepcopy(CASES[name].network).double().eval()
    for tensor in network.parameters():
        if tensor.dim() == 1:
            nn.init.uniform_(tensor, 0.3, 1.3)
    x = torch.randn(network.example, dtype=torch.float64)
    for seed in range(3):
        cut = random_cut(network, groups_of(network), seed)
        pruned = outputs(shrink(network, cut), x)
        torch.testing.assert_close(pruned, outputs(zeroed(network, cut), x), rtol=0, atol=1e-12)
        assert float((pruned - outputs(network, x)).abs().max()) > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_a_network_that_was_cut_can_be_cut_again(name: str) -> None:
    network = CASES[name].network
    small = shrink(network, random_cut(network, groups_of(network)))
    again = groups_of(small)
    assert outputs(shrink(small, random_cut(small, again)), torch.randn(network.example)).shape == (2, 10)
    assert {group.name for group in again} <= {group.name for group in groups_of(network)}


@pytest.mark.parametrize("dense_states", [True, False])
@pytest.mark.parametrize("make", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_unrolled_by_hand_loses_units_whatever_its_first_state(
    make: type[nn.RNNCellBase], dense_states: bool
) -> None:
    def unrolled(s: Tokens, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 8) if dense_states else None
        if make is nn.LSTMCell and dense_states:
            state = (state, state)
        for step in range(x.shape[1]):
            state = s.cell(x[:, step], state)
        return state if isinstance(state, Tensor) else state[0]

    torch.manual_seed(0)
    network = Tokens(unrolled, cell=make(8, 8)).double()
    groups = find_groups(network, torch.randn(2, 5, 6)).cuttable
    assert {group.name: group.num_channels for group in groups} == {"embed": 8, "cell": 8}
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    small = network
    for seed in range(2):  # what was cut can be cut again
        cut = random_cut(small, find_groups(small, x).cuttable, seed)
        pruned, wanted = shrink(small, cut), zeroed(small, cut)
        torch.testing.assert_close(outputs(pruned, x), outputs(wanted, x), rtol=0, atol=1e-12)
        small = pruned


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_a_hook_computes_is_cut_where_it_is_stored(norm: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight_norm by a hook is deprecated, and many networks have it
        network = Body(lambda s, x: s.layer(x), layer=norm(nn.Conv2d(8, 8, 1))).eval()
    groups = find_groups(network, torch.randn(network.example)).cuttable
    assert {group.name: group.num_channels for group in groups} == {"stem": 8, "layer": 8, "plain": 12}


def test_a_weight_that_is_computed_in_an_unknown_way_stays_and_is_named() -> None:
    layer = nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 8, 1))
    groups = find_groups(Body(lambda s, x: s.layer(x), layer=layer), torch.randn(2, 3, 8, 8))
    assert [group.name for group in groups.cuttable] == ["plain"]
    reasons = {group.name: group.reason for group in groups.frozen}
    assert "is read by a convolution whose weight is computed" in reasons["stem"]
    assert "layer" in reasons


def test_an_axis_says_where_channels_lie() -> None:
    gates = Axis("weight", 0, "out", start=4, count=4, offsets=(0, 4, 8))
    assert gates.positions([3, 5, 8]) == (1, 5, 9)
    heads = Axis("weight", 0, "heads", offsets=(0, 8), block=4)
    assert heads.of(1) == (4, 5, 6, 7, 12, 13, 14, 15)


def test_sides_without_a_tensor_have_no_axis() -> None:
    assert {axis.tensor for axis in axes_of(nn.Conv2d(2, 2, 1, bias=False))} == {"weight"}
    assert axes_of(nn.BatchNorm2d(3, affine=False, track_running_stats=False)) == ()
    assert axes_of(nn.ReLU()) == ()
    assert tensor_of(nn.Linear(2, 2, bias=False), "bias") is None
    assert [axis.tensor for axis in axes_of(nn.Linear(2, 2), "in")] == ["weight"]


def test_every_kind_has_a_name_of_its_own_and_relu_is_none() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert kind_of(nn.ReLU()) is None


def test_a_grouped_convolution_that_would_lose_part_of_a_group_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 1, groups=2))
    with pytest.raises(ValueError, match="loses whole groups, on both sides alike"):
        shrink(network, {"0": KeptChannels({"in": (0, 1), "out": (0, 1, 2, 3, 4)})})
