"""Patterns choose layers by path, and a group goes only if every layer that makes it may."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pruning_nets import NETWORKS
from torch import nn

from autoprune.errors import UsageError
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.pruning.find_blocks import find_blocks
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.selection import check_patterns, choose_blocks, choose_groups

INNER = [f"layer{stage}.0.conv1" for stage in (1, 2, 3)]
STREAMS = ["conv1", "layer2.0.conv2", "layer3.0.conv2"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return CifarResNet(1)


@pytest.fixture(scope="module")
def groups(network: nn.Module) -> Groups:
    return find_groups(network, torch.randn(2, 3, 16, 16))


def names(groups: Groups) -> list[str]:
    return [group.name for group in groups.cuttable]


@pytest.mark.parametrize(
    ("keep", "only", "left"),
    [
        ((), (), sorted(INNER + STREAMS)),
        (["layer1"], (), ["layer2.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"]),
        (["*.conv1"], (), STREAMS),
        (["layer?.0.conv1", "conv1"], (), STREAMS[1:]),
        ((), ["*.conv1"], INNER),
        ((), ["layer1"], ["conv1", "layer1.0.conv1"]),
        (["conv1"], ["layer1"], ["layer1.0.conv1"]),
        (["layer2.0.downsample.0"], (), [n for n in sorted(INNER + STREAMS) if n != "layer2.0.conv2"]),
        (["*bn*", "fc"], (), sorted(INNER + STREAMS)),
    ],
)
def test_a_residual_stream_belongs_to_every_layer_that_adds_to_it(
    network: nn.Module, groups: Groups, keep: Sequence[str], only: Sequence[str], left: list[str]
) -> None:
    assert sorted(names(choose_groups(network, groups, keep, only))) == sorted(left)


def test_what_is_not_chosen_is_frozen_and_says_by_which_pattern(network: nn.Module, groups: Groups) -> None:
    kept = choose_groups(network, groups, keep=["layer1.0.conv1"])
    assert [g.reason for g in kept.frozen if g.name == "layer1.0.conv1"] == ["kept by 'layer1.0.conv1'"]
    chosen = choose_groups(network, groups, only=["layer1", "layer2"])
    assert {g.reason for g in chosen.frozen} == {
        "its channels are the network's output", "not selected by 'layer1', 'layer2'"
    }  # fmt: skip
    assert len(kept.cuttable) + len(kept.frozen) == len(groups.cuttable) + len(groups.frozen)


def test_heads_and_embeddings_are_chosen_by_their_module() -> None:
    kind = NETWORKS["encoder"]
    network = kind.lively()
    groups = find_groups(network, kind.example())
    assert names(choose_groups(network, groups, only=["*.self_attn"])) == [
        "words", "encoder.layers.0.self_attn", "encoder.layers.1.self_attn"
    ]  # fmt: skip
    kept = names(choose_groups(network, groups, keep=["words"]))
    assert "words" not in kept
    assert len(kept) == len(groups.cuttable) - 1


def test_a_bare_parameter_can_be_named(network: nn.Module) -> None:
    kind = NETWORKS["encoder"]
    check_patterns(kind.build(), ["place"])


def test_a_pattern_that_matches_nothing_says_what_was_meant(network: nn.Module, groups: Groups) -> None:
    with pytest.raises(UsageError, match=r"'layer1.0.conv3' matches no layer of the network; did you mean") as caught:
        choose_groups(network, groups, keep=["layer1.0.conv3"])
    assert "Give a glob over module paths such as 'conv1' or 'conv1*'" in str(caught.value)


@pytest.mark.parametrize(
    ("keep", "only", "left"),
    [
        ((), (), ["1", "2"]),
        (["1.0"], (), ["2"]),
        (["*.1"], (), []),
        ((), ["2"], ["2"]),
        ((), ["2.0"], []),
        (["0"], (), ["1", "2"]),
    ],
)
def test_a_block_goes_only_if_every_layer_in_it_may(keep: Sequence[str], only: Sequence[str], left: list[str]) -> None:
    class Residual(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + super().forward(x)

    def residual() -> nn.Module:
        return Residual(nn.Linear(6, 8), nn.Linear(8, 6))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), residual(), residual(), nn.Linear(6, 3))
    blocks = find_blocks(network, torch.randn(2, 4))
    assert [block.name for block in choose_blocks(network, blocks, keep, only)] == left
