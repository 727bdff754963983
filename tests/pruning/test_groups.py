"""What cannot be cut is frozen with a reason that its author understands, and the rest goes on."""

from __future__ import annotations

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from pruning_nets import OUTPUT, PaddedShortcut, random_cut
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.core.channel_groups import PruningGroup
from autoprune.errors import ModelError
from autoprune.models.calling.inputs import Inputs
from autoprune.models.cifar_resnet import resnet20
from autoprune.pruning.groups import Groups, find_groups, glimpse_groups
from autoprune.pruning.prove_groups import draws
from autoprune.pruning.surgery import shrink
from autoprune.pruning.tracing.whole_trace import trace


class FixedReshape(nn.Module):
    """A network with the flattened size written into the forward pass, as in LeNet tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 25, 3, padding=1)
        self.hidden, self.head = nn.Linear(400, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.conv2(self.conv1(x).relu()).relu(), 4)
        x = x.view(-1, 400)
        return self.head(self.hidden(x).relu())


class SharedWeights(nn.Module):
    """One weight, used in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.free, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 10)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()).relu()).relu()
        return self.head(self.free(x).relu().mean((2, 3)))


class SharedWords(nn.Module):
    """Words, read and written with the same matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.free, self.mix = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.free(self.words(x)).relu()).mean(1))


class GroupedInput(nn.Module):
    """A filter for each colour of an image by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.colours, self.plain, self.head = nn.Conv2d(3, 9, 3, groups=3), nn.Conv2d(9, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.colours(x).relu()).relu().mean((2, 3)))


class Scaled(nn.Module):
    """Channels scaled by a parameter that starts at a tiny value; half of them are read at other positions."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, 8, 3, padding=1), nn.Parameter(torch.full((8, 1, 1), scale))
        self.plain, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale
        x = torch.cat([x[:, :4], -x[:, 4:]], 1)
        return self.head(self.plain(x).relu().mean((2, 3)))


class WithStates(nn.Module):
    """A recurrence that begins with float32 zeros, of a size that is read off the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(16, 8), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x[:, 0])
        start = torch.zeros(1, x.shape[0], self.layer.hidden_size)
        return self.head(self.layer(x, start)[0][:, -1])


def found_in(network: nn.Module) -> Groups:
    return find_groups(network, torch.randn(2, 3, 16, 16))


HERE = r"\(test_groups\.py:\d+, in forward: "


@pytest.mark.parametrize(
    ("build", "cuttable", "frozen"),
    [
        (
            PaddedShortcut,
            ["inner1", "inner2"],
            {
                "stem": r"is padded with a fixed number of channels \(pruning_nets\.py:\d+, in forward: shortcut = ",
                "outer2": r"is combined with a tensor of fixed size \(pruning_nets.*: x = \(shortcut \+ self\.outer2",
            },
        ),
        (
            FixedReshape,
            ["conv1", "hidden"],
            {"conv2": rf"forward pass fails once it is cut: .*'\[-1, 400\]'.* {HERE}x = x\.view\(-1, 400\)\)$"},
        ),
        (SharedWeights, ["stem", "free"], {}),
        (GroupedInput, ["plain"], {"colours": "is tied to the network's input, or to what cannot be followed"}),
        (WithStates, ["embed", "layer"], {}),
    ],
)
def test_what_cannot_be_cut_is_frozen_with_its_reason(
    build: type[nn.Module], cuttable: list[str], frozen: dict[str, str]
) -> None:
    torch.manual_seed(0)
    groups = found_in(build())
    assert [group.name for group in groups.cuttable] == cuttable
    assert [group.name for group in groups.frozen[: len(frozen) + 1]] == [*frozen, "head"]
    for group, reason in zip(groups.frozen, [*frozen.values(), f"^{OUTPUT}$"], strict=False):
        assert re.search(reason, group.reason), group.reason


def test_words_that_are_read_and_written_by_one_matrix_go_together() -> None:
    groups = find_groups(SharedWords(), torch.randint(11, (2, 7)))
    assert [group.name for group in groups.cuttable] == ["words", "free"]
    assert {(member.module, member.side) for member in groups.cuttable[0].members} >= {("words", "out"), ("head", "in")}
    (whole,) = groups.frozen  # the words themselves: the embedding cannot lose any
    assert whole.name == "head"
    assert whole.reason.startswith("head shares its weight with words")


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_a_cut_that_is_wrong_is_found_behind_a_scale_that_hides_it(scale: float) -> None:
    """A trace that does not know where fixed slices lie proposes it; the proof must see the difference."""
    torch.manual_seed(0)
    groups = found_in(Scaled(scale))
    assert [group.name for group in groups.cuttable] == ["stem[4:]", "plain"]
    assert "not the same as zeroing its channels" in groups.frozen[0].reason


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_no_time_freezes_everything_and_names_the_limit(seconds: float) -> None:
    groups = find_groups(resnet20(), torch.randn(2, 3, 16, 16), seconds=seconds)
    assert not groups.cuttable
    assert len(groups.frozen) == 22  # 19 convolutions, 2 shortcuts, the classifier
    assert {group.reason for group in groups.frozen} == {f"the network could not be traced within {seconds:g} s"}


def test_no_time_left_for_the_proof_freezes_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network, example = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(2, 4)
    traced = trace(network.eval(), Inputs.of(example[:1]))
    monkeypatch.setattr("autoprune.pruning.groups.trace", lambda *_: traced)  # what took all the time
    groups = find_groups(network, example, seconds=0)
    assert [(group.name, group.reason) for group in groups.frozen] == [("0", "not proved within 0 s"), ("2", OUTPUT)]


def test_groups_that_pass_alone_and_not_together_say_so() -> None:
    class Either(nn.Module):
        """A network that fails if both of two layers are smaller than they were."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.left(x), self.right(x)
            if left.shape[1] < 8 and right.shape[1] < 8:
                raise RuntimeError("both are cut")
            return self.head(torch.cat([left, right], 1))

    groups = find_groups(Either(), torch.randn(2, 6))
    assert not groups.cuttable
    for group in groups.frozen[:2]:
        assert re.search(r"^can be cut only while others are not: .*both are cut .*in forward: raise", group.reason)


def test_a_script_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        scripted = torch.jit.script(network)
    with pytest.raises(ModelError, match="a ScriptModule's layers cannot be cut; give the Python module"):
        find_groups(scripted, torch.randn(2, 4))


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

    with pytest.raises(ModelError, match=f"returns a {kind} without a tensor in eval mode; expected a tensor"):
        found_in(Wrapped())


def test_weights_that_forward_assigns_hide_no_group() -> None:
    class MaxNorm(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 1.0)
            return super().forward(x)

    groups = find_groups(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), MaxNorm(8, 8), nn.ReLU(), MaxNorm(8, 3)), torch.randn(2, 6)
    )
    assert [group.name for group in groups.cuttable] == ["0", "2"]


class Reduced(nn.Module):
    """Two widths tied by their number alone: one is reshaped with the other's.

    Args:
        width: of both.
        names: of the two layers; the channels that a proof draws depend on them.
    """

    def __init__(self, width: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        self.add_module(names[0], nn.Conv2d(3, width, 3, padding=1))
        self.add_module(names[1], nn.Conv2d(width, width, 2, 2))
        self.few, self.head = nn.Linear(width, 5), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem, reduce = (self.get_submodule(name) for name in self.names)
        x = stem(x).relu()
        few = reduce(x).reshape(x.shape[0], x.shape[1], -1).transpose(1, 2)
        return self.few(few.relu()).mean(1) + self.head(x.mean((2, 3)))


@pytest.mark.parametrize("width", [4, 6, 16])
@pytest.mark.parametrize("names", [("stem", "reduce"), ("abc", "xyz"), ("q", "w"), ("left", "right")])
def test_groups_tied_only_by_their_number_are_coupled_whatever_their_names(names: tuple[str, str], width: int) -> None:
    (group,) = find_groups(Reduced(width, names), torch.randn(2, 3, 8, 8)).cuttable
    assert (group.name, group.num_channels) == (names[0], width)
    assert set(group.layers) == {*names, "few", "head"}


class Helped(nn.Module):
    """A network with a layer that only training runs, and one that nothing runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3)
        self.aux, self.head, self.spare = nn.Linear(16, 5), nn.Linear(12, 5), nn.Linear(7, 9)
        self.register_buffer("mean", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.stem(x).relu()
        answer = self.head(self.body(x).relu().mean((2, 3)))
        if not self.training:
            return answer
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return answer, self.aux(x.mean((2, 3)))


def test_layers_that_only_training_runs_shrink_with_what_feeds_them() -> None:
    network = Helped()
    groups = find_groups(network, torch.randn(2, 3, 8, 8))
    stem = next(group for group in groups.cuttable if group.name == "stem")
    assert set(stem.layers) == {"stem", "body", "aux", "mean"}
    small = shrink(network, random_cut(network, groups.cuttable)).train()
    assert [answer.shape for answer in small(torch.randn(2, 3, 8, 8))] == [(2, 5), (2, 5)]
    reasons = {group.name: group.reason for group in groups.frozen}
    assert reasons["spare"] == "no pass runs it, in evaluation or in training"


def test_a_network_that_fails_in_training_mode_says_so_with_its_line() -> None:
    class Lacking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.lacking if self.training else x)

    with pytest.raises(ModelError, match=r"not in training mode, .*has no attribute 'lacking' \(test_groups\.py:\d+"):
        find_groups(nn.Sequential(nn.Linear(4, 8), Lacking(8, 3)), torch.randn(2, 4))


class Noisy(nn.Module):
    """Add noise in training, from a stream of PyTorch's, NumPy's or its own process."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.layers = source, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.layers(x)
        noise = {"torch": lambda: float(torch.rand(())), "numpy": lambda: float(_ELSEWHERE.normal())}[self.source]()
        return self.layers(x) + noise


_ELSEWHERE = np.random.default_rng(0)


@pytest.mark.parametrize("source", ["torch", "numpy"])
def test_training_that_draws_random_numbers_from_anywhere_is_not_compared(source: str) -> None:
    assert [group.name for group in find_groups(Noisy(source), torch.randn(2, 4)).cuttable] == ["layers.0"]


def test_a_quiet_network_runs_in_training_mode_only_as_often_as_needed() -> None:
    passes = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            passes.append((self.training, len(x)))
            return super().forward(x)

    assert len(find_groups(nn.Sequential(Counted(4, 8), nn.Linear(8, 3)), torch.randn(2, 4)).cuttable) == 1
    assert passes.count((True, 2)) == 4  # alone, traced, cut, and masked
    assert passes.count((False, 1)) == 1  # traced


def test_a_glimpse_proves_one_group_for_a_few_passes() -> None:
    passes = []

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(len(x))
            return super().forward(x)

    layers = [layer for _ in range(12) for layer in (nn.Linear(8, 8), nn.ReLU())]
    network = nn.Sequential(Counted(4, 8), *layers, nn.Linear(8, 3))
    found, passes_of_all = find_groups(network, torch.randn(2, 4)), len(passes)
    passes.clear()
    glimpse = glimpse_groups(network, torch.randn(2, 4))
    assert [group.name for group in glimpse.proposed.cuttable] == [group.name for group in found.cuttable]
    assert glimpse.can_cut(glimpse.proposed.cuttable[0])
    assert len(passes) <= passes_of_all
    assert glimpse_groups(network, torch.randn(2, 4), 0.0).proposed.cuttable == ()


def test_a_glimpse_finds_out_that_a_cut_is_wrong() -> None:
    glimpse = glimpse_groups(FixedReshape(), torch.randn(2, 3, 16, 16))
    can_be_cut = {group.name: glimpse.can_cut(group) for group in glimpse.proposed.cuttable}
    assert can_be_cut == {"conv1": True, "conv2": False, "hidden": True}


def test_every_group_loses_another_share_than_every_other_in_some_draw() -> None:
    for channels in (2, 3, 4, 16):
        groups = [PruningGroup(f"g{number}", channels, ()) for number in range(40)]
        lost = [{name: len(gone) for name, gone in removed.items()} for removed in draws(groups)]
        shares = {group.name: tuple(removed.get(group.name, 0) for removed in lost) for group in groups}
        assert len(set(shares.values())) == len(groups)
        assert all(any(share) for share in shares.values())


def test_names_are_unique_and_may_hold_any_character() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("conv[0:]", "a:b"):
                self.add_module(name, nn.Conv2d(3, 8, 1))
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            parts = [self.get_submodule(name)(x).relu().mean((2, 3)) for name in ("conv[0:]", "a:b")]
            return self.head(torch.cat(parts, 1))

    groups = find_groups(Odd(), torch.randn(2, 3, 8, 8))
    assert [group.name for group in groups.cuttable] == ["conv[0:]", "a:b"]


def test_each_matrix_of_a_layer_of_ones_own_stands_somewhere() -> None:
    class Chained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(6, 4, 8))
            self.second = nn.Parameter(torch.randn(4, 8, 12))
            self.head = nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.einsum("btc,chd->bthd", x, self.first)
            return self.head(torch.einsum("bthd,hde->bte", x, self.second).mean(1))

    found = find_groups(Chained(), torch.randn(2, 5, 6))
    assert [group.name for group in found.cuttable] == ["second"]
    assert {one.name: one.num_channels for one in found.frozen} == {"head": 3, "first": 6}
