"""A block is found from what it computes, whatever it is called, and the network runs without it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from torchvision.models.convnext import CNBlockConfig

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.errors import ModelError
from autoprune.models.cifar_resnet import resnet20, resnet56
from autoprune.pruning.drop_blocks import DroppedBlock, drop_blocks
from autoprune.pruning.find_blocks import find_blocks

IMAGE = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(0))
Forward = Callable[["Body", Tensor], Tensor]


class Body(nn.Module):
    """Two convolutions of equal shapes and a norm, combined by a function."""

    def __init__(self, combine: Forward) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.1))
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self, x)


class Net(nn.Module):
    """A stem, a body and a head."""

    def __init__(self, body: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.body = stem or nn.Conv2d(8, 8, 3, padding=1), body
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def found(network: nn.Module, example: Tensor = IMAGE) -> list[str]:
    return [block.name for block in find_blocks(network, example)]


def branch(body: Body, x: Tensor) -> Tensor:
    return body.second(body.first(x).relu())


def add_in_place(body: Body, x: Tensor) -> Tensor:
    result = branch(body, x)
    result += x
    return result


def overwrite_input(body: Body, x: Tensor) -> Tensor:
    x += branch(body, x)
    return x


def add_twice(body: Body, x: Tensor) -> Tensor:
    x = x + F.dropout(body.first(body.norm(x)), 0.5, body.training)
    return x + body.scale * body.second(x)


def into_buffer(body: Body, x: Tensor) -> Tensor:
    return torch.add(x, branch(body, x), out=torch.empty_like(x))


ADDING: dict[str, Forward] = {
    "two submodules": lambda body, x: x + branch(body, x),
    "the other way round": lambda body, x: branch(body, x) + x,
    "pre-activation": lambda body, x: x + body.first(F.relu(body.norm(x), inplace=True)),
    "in place": add_in_place,
    "over its input": overwrite_input,
    "twice": add_twice,
    "into a buffer": into_buffer,
    "three terms": lambda body, x: x + body.first(x) - 2 * body.second(x) + 1,
    "scaled and added at once": lambda body, x: torch.addcmul(x, branch(body, x), body.scale),
    "a weighted branch": lambda body, x: torch.add(x, branch(body, x), alpha=0.5),
    "a copy": lambda body, x: x.clone() + branch(body, x),
    "a gated branch": lambda body, x: x + x * branch(body, x).sigmoid(),
    "half a view": lambda body, x: x[:, :] + body.first(torch.cat([x[:, :4], x[:, 4:]], 1)),
}


@pytest.mark.parametrize("combine", ADDING.values(), ids=ADDING)
def test_what_only_adds_is_a_block(combine: Forward) -> None:
    torch.manual_seed(0)
    assert found(Net(Body(combine))) == ["body"]


def shift_then_add(body: Body, x: Tensor) -> Tensor:
    y = x + branch(body, x)
    x.zero_()  # through the same memory y does not see this, but a view of x would
    return y


def write_through_a_view(body: Body, x: Tensor) -> Tensor:
    y = x + branch(body, x)
    y[:, 0].zero_()
    return y


def relu_of_input(body: Body, x: Tensor) -> Tensor:
    x = F.relu(x, inplace=True)
    return x + branch(body, x)


NOT_ADDING: dict[str, Forward] = {
    "a product": lambda body, x: x * branch(body, x),
    "in front of a product": lambda body, x: (x + body.first(x)) * body.scale,
    "a transformed shortcut": lambda body, x: body.norm(x) + branch(body, x),
    "a shifted shortcut": lambda body, x: x.roll(1, -1) + branch(body, x),
    "a flipped shortcut": lambda body, x: x.flip(-1) + branch(body, x),
    "a part of the input": lambda body, x: branch(body, x) + x[:, :1],
    "twice the input": lambda body, x: x + x + branch(body, x),
    "a scaled input": lambda body, x: torch.add(branch(body, x), x, alpha=2),
    "the branch minus the input": lambda body, x: branch(body, x) - x,
    "the input cancelled": lambda body, x: (x + branch(body, x)) - x,
    "a branch only": branch,
    "a concatenation": lambda body, x: torch.cat([x[:, :4], body.first(x)[:, 4:]], 1),
    "a constant": lambda body, x: x + body.scale,
    "the input itself": lambda body, x: x,
    "a norm after the sum": lambda body, x: body.norm(x + branch(body, x)),
    "a ReLU after the sum, of signed input": lambda body, x: F.relu(x + branch(body, x)),
    "a ReLU of signed input": relu_of_input,
    "a sum that is overwritten": write_through_a_view,
    "another type": lambda body, x: (x + branch(body, x)).double().float() + 0 * x,
}


@pytest.mark.parametrize("combine", NOT_ADDING.values(), ids=NOT_ADDING)
def test_what_does_more_than_add_is_no_block(combine: Forward) -> None:
    torch.manual_seed(0)
    assert found(Net(Body(combine))) == []


@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu, F.elu, nn.ReLU(inplace=True), nn.ReLU6()])
def test_an_activation_after_the_sum_is_allowed_if_it_leaves_the_input_alone(activation: Forward) -> None:
    torch.manual_seed(0)
    after = Body(lambda body, x: activation(x + branch(body, x)))  # type: ignore[call-arg, arg-type]
    assert found(Net(after, nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()))) == ["body"]
    assert found(Net(after)) == []


def test_a_block_that_overwrites_what_others_read_is_left_out() -> None:
    class Reader(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head((x + self.body(x)).mean((2, 3)))  # body(x) first writes into x

    class LateReader(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.body(x)
            return self.head((x * y).mean((2, 3)))

    torch.manual_seed(0)
    assert found(LateReader(Body(ADDING["in place"]))) == ["body"]
    assert found(LateReader(Body(shift_then_add))) == []
    assert found(Reader(Body(overwrite_input))) == []


# which modules


def test_a_block_on_the_image_itself_and_the_network_itself_are_none() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Body(ADDING["two submodules"])

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    assert found(Whole()) == []
    assert found(Body(ADDING["two submodules"])) == []
    assert found(Net(Body(branch), stem=Whole())) == []


def test_the_smallest_is_taken_and_what_holds_no_weights_is_none() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.mean()

    stage = nn.Sequential(Body(ADDING["twice"]), nn.Dropout(0.5), nn.Identity(), Plain(), Body(ADDING["in place"]))
    assert found(Net(stage)) == ["body.0", "body.4"]


class Pair(nn.Module):
    """Two bodies, of which the second may be reached from the first."""

    def __init__(self, one: Body, two: Body) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)).relu()


def test_what_is_shared_with_the_outside_is_none() -> None:
    add = ADDING["two submodules"]
    weights, module = Pair(Body(add), Body(add)), Pair(Body(add), Body(add))
    weights.two.second.weight = weights.one.first.weight
    module.two.first = module.one.first
    same = Body(add)
    assert found(Net(Pair(Body(add), Body(add)))) == ["body.one", "body.two"]
    assert found(Net(weights)) == []
    assert found(Net(module)) == []
    assert found(Net(Pair(same, same))) == []


def test_what_is_called_or_read_from_elsewhere_is_none() -> None:
    class Caller(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(self.one.first(x))).relu()

    class Looker(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x.to(self.one.first.weight.dtype))).relu()

    class Repeater(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(self.one(x))).relu()

    add = ADDING["two submodules"]
    for kind in (Caller, Looker, Repeater):
        assert found(Net(kind(Body(add), Body(add)))) == ["body.two"], kind


def test_further_arguments_and_transformer_layers() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=first)
                for first in (True, True, False)
            )

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x, None, src_key_padding_mask=None)
            return self.head(x.mean(1))

    network, tokens = Encoder(), torch.arange(12).reshape(2, 6)
    fast = torch.backends.mha.get_fastpath_enabled()
    assert found(network, tokens) == ["layers.0", "layers.1"]  # the last one normalises its sums
    assert torch.backends.mha.get_fastpath_enabled() == fast
    drop_blocks(network, ["layers.0", "layers.1"])
    assert network.eval()(tokens).shape == (2, 3)


def test_blocks_that_cannot_go_together_are_thinned_out() -> None:
    class Either(Pair):
        def forward(self, x: Tensor) -> Tensor:
            if isinstance(self.one, DroppedBlock) and isinstance(self.two, DroppedBlock):
                raise RuntimeError("one of us has to stay")
            return super().forward(x)

    add = ADDING["two submodules"]
    assert found(Net(Either(Body(add), Body(add)))) == ["body.one"]


def test_a_network_that_does_not_run_says_so() -> None:
    with pytest.raises(ModelError, match=r"does not run on an input of shape \(1, 3, 4, 4\)"):
        find_blocks(Net(Body(branch)), torch.zeros(1, 3, 4, 4))
    assert find_blocks(nn.LSTM(8, 8), torch.zeros(1, 6, 8)) == ()  # it returns a tuple


# whole networks


def residual(blocks: str) -> list[str]:
    """Expand ``"1.0-2 3.1"`` into ``1.0, 1.1, 1.2, 3.1``."""
    names = []
    for part in blocks.split():
        stage, _, span = part.rpartition(".")
        first, _, last = span.partition("-")
        names += [f"{stage}.{number}" for number in range(int(first), int(last or first) + 1)]
    return names


def tiny_vit() -> nn.Module:
    return zoo.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)


def tiny_swin() -> nn.Module:
    return zoo.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], stochastic_depth_prob=0.2)


def tiny_convnext() -> nn.Module:
    return zoo.ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 3)], stochastic_depth_prob=0.2)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "cifar resnet20": (resnet20, residual("layer1.0-2 layer2.1-2 layer3.1-2")),
    "cifar resnet56": (resnet56, residual("layer1.0-8 layer2.1-8 layer3.1-8")),
    "resnet18": (zoo.resnet18, residual("layer1.0-1 layer2.1 layer3.1 layer4.1")),
    "mobilenet_v2": (
        zoo.mobilenet_v2,
        [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
    ),
    "mobilenet_v3_small": (zoo.mobilenet_v3_small, [f"features.{i}" for i in (3, 5, 6, 8, 10, 11)]),
    "efficientnet_b0": (
        zoo.efficientnet_b0,
        residual("features.2.1 features.3.1 features.4.1-2 features.5.1-2 features.6.1-3"),
    ),
    "regnet_y_400mf": (
        zoo.regnet_y_400mf,
        [f"trunk_output.block{s}.block{s}-{i}" for s, n in ((2, 3), (3, 6), (4, 6)) for i in range(1, n)],
    ),
    "convnext": (tiny_convnext, residual("features.1.0-1 features.3.0-2")),
    "swin": (tiny_swin, residual("features.1.0-1 features.3.0-1")),
    "vit": (tiny_vit, [f"encoder.layers.encoder_layer_{i}" for i in range(2)]),
    "shufflenet_v2_x0_5": (zoo.shufflenet_v2_x0_5, []),
    "densenet121": (zoo.densenet121, []),
}


@pytest.mark.parametrize(("build", "expected"), NETWORKS.values(), ids=NETWORKS)
def test_the_blocks_of_well_known_networks(build: Callable[[], nn.Module], expected: list[str]) -> None:
    torch.manual_seed(0)
    network = build()
    example = torch.randn(1, 3, *(32, 32) if build in (tiny_vit, resnet20, resnet56) else (64, 64))
    before = copy.deepcopy(network.state_dict())
    assert found(network, example) == expected
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
    drop_blocks(network, expected)
    assert network.eval()(example).isfinite().all()


def test_a_block_names_the_groups_that_live_inside_it_alone() -> None:
    def group(name: str, *modules: str) -> PruningGroup:
        return PruningGroup(name, 2, tuple(Member(module, "out", (0, 1)) for module in modules))

    groups = [
        group("layer1.0.conv1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2"),
        group("conv1", "conv1", "layer1.0.bn2", "layer1.1.conv1"),
        group("layer1.1.conv1", "layer1.1.conv1", "layer1.1.bn1"),
    ]
    blocks = {block.name: block.groups for block in find_blocks(resnet20(), torch.randn(1, 3, 32, 32), groups)}
    assert blocks["layer1.0"] == ("layer1.0.conv1",)
    assert blocks["layer1.1"] == ("layer1.1.conv1",)
    assert blocks["layer1.2"] == ()


# dropping


def test_a_dropped_block_passes_its_input_on_and_its_weights_are_gone() -> None:
    network = resnet20()
    drop_blocks(network, ["layer1.1", "layer3.2"])
    assert isinstance(network.layer1[1], DroppedBlock)
    assert not any(name.startswith(("layer1.1.", "layer3.2.")) for name in network.state_dict())
    x = torch.randn(2, 3)
    assert DroppedBlock()(x, None, mask=x) is x
    drop_blocks(network, ["layer1.1", "layer1"])  # one inside the other
    assert isinstance(network.layer1, DroppedBlock)


def test_an_unknown_block_is_named_and_nothing_changes() -> None:
    network = resnet20()
    for name, message in (("layer1.9", r"no block 'layer1\.9'; did you mean 'layer1\."), ("", "no block ''")):
        with pytest.raises(ModelError, match=message):
            drop_blocks(network, ["layer1.0", name])
        assert not isinstance(network.layer1[0], DroppedBlock)
