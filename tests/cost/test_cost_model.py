"""The closed form is, exactly, the count on networks built with fewer channels, fewer blocks and zero weights."""

from __future__ import annotations

import random
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from cut_networks import CUT_CASES, really
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autoprune.core.channel_groups import Block, Shrink
from autoprune.core.counts import MASK_UNITS, ChannelCounts, masked_zeros
from autoprune.cost.cost_model import CostModel, measure_network, state_bytes
from autoprune.cost.size_products import SizeTable, Totals
from autoprune.models.cifar_resnet import resnet20

IMAGE = torch.zeros(1, 3, 9, 9)

DENSE = ChannelCounts()


@cache
def model_of(name: str, **options: Any) -> CostModel:
    case = CUT_CASES[name]
    return CostModel(case.build(**case.channels), case.shrinks, case.channels, case.example, **options)


@pytest.mark.parametrize("name", CUT_CASES)
def test_the_dense_network_costs_what_is_counted(name: str) -> None:
    case = CUT_CASES[name]
    dense = case.build(**case.channels)
    model = model_of(name)
    assert model.count(ChannelCounts(case.channels)) == really(dense, case.example)
    assert model.measure(DENSE).values == measure_network(dense, case.example).values
    assert sum(layer.macs for layer in model.layers) == model.count(DENSE)[0]
    assert state_bytes(dense) == model.count(DENSE)[2]


@pytest.mark.parametrize("name", CUT_CASES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_the_closed_form_is_the_count_on_the_smaller_network(name: str, data: st.DataObject) -> None:
    case = CUT_CASES[name]
    kept = {group: data.draw(st.integers(1, full), label=group) for group, full in case.channels.items()}
    small = case.build(**kept)
    assert model_of(name).count(ChannelCounts(kept)) == really(small, case.example)
    assert model_of(name).measure(ChannelCounts(kept)).values == measure_network(small, case.example).values


@pytest.mark.parametrize("name", CUT_CASES)
def test_many_policies_cost_what_each_of_them_does(name: str) -> None:
    model, channels = model_of(name), CUT_CASES[name].channels
    rng, names = np.random.default_rng(0), sorted(channels)
    counts = np.stack([rng.integers(1, channels[group] + 1, 20) for group in names], axis=1)
    many = model.measure_many([*names, "somewhere"], np.column_stack([counts, np.full(20, 3)]))
    for row in range(20):
        one = model.measure(ChannelCounts(dict(zip(names, counts[row].tolist(), strict=True))))
        assert {metric: values[row] for metric, values in many.items()} == one.values
    partly = model.measure_many(names[:1], counts[:, :1])
    assert partly["mflops"][3] == model.measure(ChannelCounts({names[0]: int(counts[3, 0])}))["mflops"]


@pytest.mark.parametrize("name", CUT_CASES)
def test_keeping_more_of_a_group_always_costs_more(name: str) -> None:
    model = model_of(name)
    for group, full in CUT_CASES[name].channels.items():
        for macs_params_bytes in zip(
            *(model.count(ChannelCounts({group: count})) for count in range(1, full + 1)), strict=True
        ):
            assert all(less < more for less, more in pairwise(macs_params_bytes))


def test_what_is_not_named_is_whole() -> None:
    model = model_of("joined")
    assert model.count(ChannelCounts({"a": 2})) == model.count(
        ChannelCounts({"a": 2, "b": 6}, mask_units={"somewhere": 3})
    )
    assert model.count(DENSE) == model.count(ChannelCounts({"a": 5, "b": 6}))


def test_a_shared_weight_shrinks_and_counts_once() -> None:
    def build(a: int) -> nn.Sequential:
        network = nn.Sequential(nn.Linear(3, a), nn.Linear(a, a, bias=False), nn.Linear(a, a, bias=False))
        network[2].weight = network[1].weight
        return network

    shared = [Shrink(f"{layer}.weight", dim, 1) for layer in (1, 2) for dim in (0, 1)]
    shrinks = {"a": [Shrink("0.weight", 0, 1), Shrink("0.bias", 0, 1), *shared]}
    model, small = CostModel(build(8), shrinks, {"a": 8}, torch.zeros(1, 3)), build(5)
    assert model.count(ChannelCounts({"a": 5})) == (15 + 2 * 25, 20 + 25, 4 * 45)
    assert model.measure(ChannelCounts({"a": 5})).values == measure_network(small, torch.zeros(1, 3)).values


def test_totals_beyond_64_bits_and_broken_uses_are_exact() -> None:
    sizes = SizeTable({"a": 2**20})
    place = sizes.place(2**20, {"a": 1})
    totals = Totals([((place,) * 4, (1,)), ((place,), (Fraction(1, 3),)), ((), (Fraction(2, 3),))], sizes.of(DENSE))
    for count in (1, 4, 2**20):
        assert totals.of(sizes.of(ChannelCounts({"a": count}))) == (count**4 + (count + 2) // 3,)
        assert totals.of_many(sizes.of_many(["a"], np.array([[count]])))[0].tolist() == [count**4 + (count + 2) // 3]


@pytest.mark.parametrize(
    ("shrink", "message"),
    [
        (Shrink("1.weight", 0, 1), r"no tensor 1\.weight"),
        (Shrink("0.weight", 0, 2), "a size of 8 cannot lose the 16 that a would take"),
        (Shrink("0:products", 0, 1), None),
    ],
)
def test_a_shrink_that_does_not_fit_is_refused(shrink: Shrink, message: str | None) -> None:
    network = nn.Sequential(nn.Linear(3, 8))
    if message is None:
        assert CostModel(network, {"a": [shrink]}, {"a": 8}, torch.zeros(1, 3)).count(ChannelCounts({"a": 1}))[0] == 24
        return
    with pytest.raises(ValueError, match=message):
        CostModel(network, {"a": [shrink]}, {"a": 8}, torch.zeros(1, 3))


def test_products_that_do_not_divide_over_the_heads_are_refused() -> None:
    shrinks = {"a": [Shrink("attend:products", 0, 1)]}
    case = CUT_CASES["attention"]
    with pytest.raises(ValueError, match="600 multiply–accumulates of products in attend do not divide over 7 heads"):
        CostModel(case.build(**case.channels), shrinks, {"a": 7}, case.example)


def test_a_buffer_that_is_not_stored_costs_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 8))
    network.register_buffer("scale", torch.ones(8), persistent=False)
    model = CostModel(network, {"a": [Shrink("scale", 0, 1)]}, {"a": 8}, torch.zeros(1, 3))
    assert model.count(ChannelCounts({"a": 1})) == model.count(DENSE) == (24, 32, 128)


# blocks


class Residual(nn.Module):
    """A residual network: a body, and the input added to its output."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_network(a: int, b: int, dropped: frozenset[str] = frozenset()) -> nn.Sequential:
    """Return two blocks, one inside the other, with attention products, on tokens of 12 channels."""
    attend = CUT_CASES["attention"].build(a=4, b=b)
    inner = nn.Identity() if "1.body.1" in dropped else Residual(attend)
    outer = nn.Identity() if "1" in dropped else Residual(nn.Sequential(nn.Linear(12, 12), inner, nn.Linear(12, 12)))
    return nn.Sequential(nn.Linear(12, 12), outer, nn.Linear(12, a), nn.Linear(a, 2))


@pytest.mark.parametrize("dropped", [(), ("1",), ("1.body.1",), ("1", "1.body.1")], ids=str)
@pytest.mark.parametrize("shrinks_products", [True, False])
def test_a_dropped_block_takes_everything_inside_along(dropped: tuple[str, ...], shrinks_products: bool) -> None:
    inside = "1.body.1.body"
    shrinks = {
        "a": [Shrink("2.weight", 0, 1), Shrink("2.bias", 0, 1), Shrink("3.weight", 1, 1)],
        "b": [
            Shrink(f"{inside}.mix.{name}", dim, 1) for name, dim in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1))
        ],
        "heads": [Shrink(f"{inside}.attend:products", 0, 1)] if shrinks_products else [],
    }
    blocks = [Block("1", ("b",)), Block("1.body.1", ("b",))]
    example = torch.zeros(1, 5, 12)
    model = CostModel(residual_network(8, 10), shrinks, {"a": 8, "b": 10, "heads": 4}, example, blocks=blocks)
    kept = ChannelCounts({"a": 3, "b": 10 if dropped else 6}, frozenset(dropped))
    small = residual_network(3, kept.channels["b"], kept.dropped_blocks)
    assert model.count(kept) == really(small, example)
    assert (len(model.uncounted) == 1) == shrinks_products


def test_a_block_does_not_hold_what_only_begins_like_it() -> None:
    network = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(12)])
    model = CostModel(network, {}, {}, torch.zeros(1, 2), blocks=[Block("1")])
    assert model.count(ChannelCounts(dropped_blocks=frozenset({"1"}))) == (44, 44, 176)


# masks


def masked(network: nn.Module, units: dict[str, int], pattern: str) -> nn.Module:
    """Set weights to zero by hand; the rest are not zero."""
    for layer, kept in units.items():
        weight = network.get_submodule(layer).weight.data.fill_(1)
        rows = weight.flatten(1)
        if pattern == "weight":
            weight.view(-1)[: masked_zeros(weight.numel(), kept)] = 0
        elif kept < MASK_UNITS and rows.shape[1] % 4 == 0:
            rows.view(len(rows), -1, 4)[:, :, 1:3] = 0
    return network


@pytest.mark.parametrize("pattern", ["weight", "2:4"])
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_what_is_not_zero_is_counted_as_on_the_masked_network(pattern: str, data: st.DataObject) -> None:
    case = CUT_CASES["flattened"]
    layers = ("0", "3")
    model = model_of("flattened", masked_layers=layers, mask_pattern=pattern)
    kept = {"a": data.draw(st.integers(1, 6))}
    units = {
        layer: data.draw(st.sampled_from((32, 64)) if pattern == "2:4" else st.integers(1, 64)) for layer in layers
    }
    small = masked(case.build(**kept), units, pattern)
    measured = model.measure(ChannelCounts(kept, mask_units=units))
    assert measured.values == measure_network(small, case.example, layers).values
    assert measured.values.keys() >= {"nonzero_mflops", "nonzero_mparams"}
    assert model.count_zeros(ChannelCounts(kept)) == (0, 0)


def test_two_of_four_needs_rows_of_a_multiple_of_four() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1))
    model = CostModel(network, {}, {}, IMAGE, masked_layers=("0", "1"), mask_pattern="2:4")
    assert model.count_zeros(ChannelCounts(mask_units={"0": 32, "1": 32})) == (16 * 49, 16)


def test_masks_in_a_dropped_block_set_nothing_to_zero() -> None:
    network = nn.Sequential(nn.Linear(12, 12), Residual(nn.Linear(12, 12)))
    example, layers = torch.zeros(1, 12), ("0", "1.body")
    model = CostModel(network, {}, {}, example, blocks=[Block("1")], masked_layers=layers)
    half = ChannelCounts(mask_units=dict.fromkeys(layers, 32))
    assert model.count_zeros(half) == (144, 144)
    assert model.count_zeros(half.dropping(frozenset({"1"}))) == (72, 72)
    small = masked(nn.Sequential(nn.Linear(12, 12), nn.Identity()), {"0": 32}, "weight")
    assert model.measure(half.dropping(frozenset({"1"}))).values == measure_network(small, example, layers).values


def test_zeros_are_looked_for_in_masked_layers_only() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    torch.nn.init.zeros_(network[0].weight)
    torch.nn.init.ones_(network[1].weight)
    example = torch.zeros(1, 4)
    assert "nonzero_mflops" not in measure_network(network, example).values
    assert measure_network(network, example, ["1"])["nonzero_mparams"] == 40 / 1e6
    assert measure_network(network, example, ["0", "gone"])["nonzero_mparams"] == 24 / 1e6
    assert measure_network(network, example, ["0"])["nonzero_mflops"] == 16 / 1e6


# a whole residual network


def test_a_residual_network_is_counted_exactly() -> None:
    network, example = resnet20(), torch.zeros(1, 3, 32, 32)
    inner = [name.removesuffix(".conv1") for name, _ in network.named_modules() if name.endswith(".conv1")]
    shrinks, channels = {}, {}
    for block in inner:
        norms = [f"{block}.bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
        outs = [Shrink(name, 0, 1) for name in (f"{block}.conv1.weight", *norms)]
        shrinks[block] = [*outs, Shrink(f"{block}.conv2.weight", 1, 1)]
        channels[block] = network.get_submodule(f"{block}.conv1").out_channels
    model = CostModel(network, shrinks, channels, example)
    draw = random.Random(0)
    for _ in range(5):
        kept = {block: draw.randint(1, full) for block, full in channels.items()}
        small = resnet20()
        for block, width in kept.items():
            one, two = (small.get_submodule(f"{block}.{name}") for name in ("conv1", "conv2"))
            one_of = {"kernel_size": 3, "padding": 1, "bias": False}
            small.set_submodule(f"{block}.conv1", nn.Conv2d(one.in_channels, width, stride=one.stride, **one_of))
            small.set_submodule(f"{block}.bn1", nn.BatchNorm2d(width))
            small.set_submodule(f"{block}.conv2", nn.Conv2d(width, two.out_channels, **one_of))
        assert model.count(ChannelCounts(kept)) == really(small, example)
