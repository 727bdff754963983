"""What cannot be cut is frozen with a reason that its author understands, and the rest goes on."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.errors import ModelError
from autoprune.pruning.groups import Groups, find_groups
from autoprune.training.models import resnet20

OUTPUT = "its channels are the network's output"


class PaddedShortcut(nn.Module):
    """A residual network of He et al.'s option A: the shortcut pads new channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner1, self.outer1 = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.inner2, self.outer2 = nn.Conv2d(8, 20, 3, 2, 1), nn.Conv2d(20, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.outer1(self.inner1(x).relu())).relu()
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = (shortcut + self.outer2(self.inner2(x).relu())).relu()
        return self.head(x.mean((2, 3)))


class FixedReshape(nn.Module):
    """Write the flattened size into the forward pass, as LeNet tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 25, 3, padding=1)
        self.hidden, self.head = nn.Linear(400, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv2(self.conv1(x).relu()).relu(), 4)
        x = x.view(-1, 400)
        return self.head(self.hidden(x).relu())


class SharedWeights(nn.Module):
    """Use one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.free, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu()).relu()
        return self.head(self.free(x).relu().mean((2, 3)))


class Grouped(nn.Module):
    """Pass through a convolution of four groups, then through a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=4)
        self.plain, self.head = nn.Conv2d(16, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.grouped(self.stem(x).relu()).relu()).relu().mean((2, 3)))


class Normalised(nn.Module):
    """Normalise by what cannot be cut yet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.plain, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.norm(self.stem(x)).relu()).relu().mean((2, 3)))


class BareParameter(nn.Module):
    """Scale channels by a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, 8, 3), nn.Parameter(torch.ones(1, 8, 1, 1))
        self.plain, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain((self.stem(x) * self.scale).relu()).relu().mean((2, 3)))


class ChannelMean(nn.Module):
    """Take a mean over channels, which a cut moves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.plain, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.plain(x - x.mean(1, keepdim=True)).relu()
        return self.head(x.mean((2, 3)))


def found_in(network: nn.Module) -> Groups:
    return find_groups(network, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("build", "cuttable", "frozen"),
    [
        (PaddedShortcut, ["inner1", "inner2"], {"stem": r"forward pass fails.*in forward, .*: x = \(shortcut \+ "}),
        (FixedReshape, ["conv1", "hidden"], {"conv2": rf"'\[-1, 400\]'.*{__file__}:\d+: x = x\.view\(-1, 400\)"}),
        (SharedWeights, ["free"], dict.fromkeys(["stem", "first", "second"], "shares its weight with another layer")),
        (Grouped, ["plain"], dict.fromkeys(["stem", "grouped"], r"grouped: a grouped convolution \(4 groups\)")),
        (Normalised, ["plain"], {"stem": "passes through norm: a GroupNorm cannot be cut yet"}),
        (BareParameter, ["plain"], {"stem": "passes through scale: a parameter outside of any layer"}),
        (ChannelMean, ["plain"], {"stem": "not the same as zeroing its channels"}),
    ],
)
def test_what_cannot_be_cut_is_frozen_with_its_reason(
    build: type[nn.Module], cuttable: list[str], frozen: dict[str, str]
) -> None:
    torch.manual_seed(0)
    groups = found_in(build())
    assert [group.name for group in groups.cuttable] == cuttable
    assert [group.name for group in groups.frozen] == [*frozen, "head"]
    for group, reason in zip(groups.frozen, [*frozen.values(), f"^{OUTPUT}$"], strict=True):
        assert re.search(reason, group.reason), group.reason


def test_a_network_that_is_all_output_has_no_group_to_cut() -> None:
    groups = found_in(nn.Sequential(nn.Flatten(), nn.Linear(768, 10)))
    assert (groups.cuttable, [group.reason for group in groups.frozen]) == ((), [OUTPUT])


def test_groups_are_the_same_at_every_call_and_in_every_copy() -> None:
    network = resnet20()
    first = found_in(network)
    assert found_in(network) == first
    assert found_in(copy.deepcopy(network)) == first
    assert found_in(resnet20()) == first  # other weights, same groups


def test_a_group_is_named_by_the_first_layer_that_produces_it() -> None:
    groups = {group.name: group for group in found_in(resnet20()).cuttable}
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert set(groups) == {"conv1", "layer2.0.conv2", "layer3.0.conv2", *inner}
    assert {name for name, group in groups.items() if group.is_residual} == set(groups) - set(inner)
    assert {m.module for m in groups["layer1.0.conv1"].members} == {f"layer1.0.{n}" for n in ("conv1", "bn1", "conv2")}


def test_frozen_weights_and_no_grad_hide_no_group() -> None:
    network = resnet20()
    expected = found_in(network)
    network.layer1.requires_grad_(False)
    assert found_in(network) == expected
    with torch.no_grad():
        assert found_in(network.requires_grad_(False)) == expected
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_finding_groups_leaves_the_network_and_the_random_state_alone(training: bool) -> None:
    network = resnet20().train(training)
    former = copy.deepcopy(network.state_dict())
    example = torch.randn(2, 3, 16, 16)
    random_state = torch.get_rng_state()
    find_groups(network, example)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, former[name]) for name, tensor in network.state_dict().items())
    assert all(module.training is training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_flattened_channel_owns_all_its_positions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 10))
    (group,) = found_in(network).cuttable
    (reader,) = [member for member in group.members if member.side == "in"]
    assert (reader.module, reader.width) == ("3", 196)
    assert reader.of(1) == tuple(range(196, 392))


def test_a_network_that_does_not_run_says_the_shape_and_the_error() -> None:
    with pytest.raises(ModelError, match=r"does not run on an input of shape \(2, 3, 16, 16\): RuntimeError"):
        found_in(nn.Conv2d(4, 8, 3))


@pytest.mark.parametrize(("output", "kind"), [({"out": 1}, "dict"), ((1, 2), "tuple")])
def test_a_network_that_returns_no_tensor_says_what_it_returns(output: object, kind: str) -> None:
    class Wrapped(nn.Module):
        def forward(self, x: Tensor) -> object:
            return output

    with pytest.raises(ModelError, match=f"returns a {kind} in eval mode.*wrap it"):
        found_in(Wrapped())
