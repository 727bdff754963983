"""The physical oracle: a pruned network computes what the dense one computes with those channels zeroed.

Everything runs in float64, so that a wrong channel cannot hide behind rounding.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as zoo

from autoprune.builtins import IMPORTANCES
from autoprune.errors import ModelError
from autoprune.policy import GroupPolicy, PruningPolicy
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.importance import Calibration, score_groups
from autoprune.pruning.prune import (
    Cut,
    KeptIndices,
    Pruner,
    channels_of,
    is_depthwise,
    lowest,
    removed_channels,
    shrink,
    zeroed,
)
from autoprune.space import PruningGroup, SearchSpace
from autoprune.training.models import resnet20


class Vgg(nn.Module):
    """Read several positions of one channel by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(8),
            nn.Conv2d(12, 20, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(20 * 2 * 2, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Concat(nn.Module):
    """Normalise and read two branches as one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 12, 5, padding=2)
        self.norm, self.mix, self.head = nn.BatchNorm2d(20), nn.Conv2d(20, 16, 3), nn.Linear(16 + 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x).relu()
        mixed = self.mix(self.norm(torch.cat([left, self.right(x)], 1)).relu()).relu()
        return self.head(torch.cat([mixed.mean((2, 3)), left.mean((2, 3))], 1))


class Depthwise(nn.Module):
    """Pass channels one to one through a depthwise convolution, beside a residual add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 24, 1, bias=False)
        self.norm1, self.depth = nn.BatchNorm2d(24), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.norm2, self.project, self.head = nn.BatchNorm2d(24), nn.Conv2d(24, 8, 1), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        inner = self.norm2(self.depth(self.norm1(self.expand(x)).relu())).relu()
        return self.head((x + self.project(inner)).mean((2, 3)))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "vgg": Vgg,
    "concat": Concat,
    "depthwise": Depthwise,
    "resnet18": lambda: zoo.resnet18(num_classes=10),
    "mobilenet_v2": lambda: zoo.mobilenet_v2(num_classes=10),
    "densenet121": lambda: zoo.densenet121(num_classes=10),
    "googlenet": lambda: zoo.googlenet(num_classes=10, aux_logits=False, init_weights=False),
}
CRITERIA = sorted(IMPORTANCES.builtins)


@dataclass(frozen=True)
class Case:
    """Hold a network with its groups and scores, and a copy of its state from before they were found."""

    pruner: Pruner
    groups: Groups
    images: Tensor
    former: dict[str, Tensor]

    def policy(self, criterion: str) -> PruningPolicy:
        """Prune every group that the criterion scores, each by another sparsity."""
        draw = random.Random(criterion)
        return PruningPolicy(
            {name: GroupPolicy(draw.uniform(0.1, 0.8), criterion) for name in self.pruner.scores[criterion]}
        )


def with_random_norms(network: nn.Module) -> nn.Module:
    """Give every batch norm statistics and a shift of its own, so that no channel is like another."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            nn.init.normal_(module.running_mean, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    network = with_random_norms(NETWORKS[request.param]()).double().eval()
    former = copy.deepcopy(network.state_dict())
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    groups = find_groups(network, images)
    scores = score_groups(network, groups.cuttable, CRITERIA, Calibration([(images.float(), torch.tensor([7]))]))
    importances = {group.name: tuple(c for c in CRITERIA if group.name in scores[c]) for group in groups.cuttable}
    return Case(Pruner(network, SearchSpace(groups.cuttable, importances), scores), groups, images, former)


def without_producers(network: nn.Module, cut: Cut) -> nn.Module:
    """Zero the removed channels where they are produced, and leave those who read them as they are."""
    twin = copy.deepcopy(network)
    for path, kept in cut.items():
        module = twin.get_submodule(path)
        for tensor in (module.weight.data, module.bias.data if module.bias is not None else None):
            if kept.out is not None and tensor is not None:
                tensor[[i for i in range(len(tensor)) if i not in kept.out]] = 0
    return twin


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.eval()(images)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pruned_is_zeroed_and_not_dense(case: Case, criterion: str) -> None:
    policy = case.policy(criterion)
    cut = case.pruner.cut(policy)
    dense = outputs(case.pruner.network, case.images)
    pruned = outputs(case.pruner.prune(policy), case.images)
    scale = float(dense.abs().max())
    for masked in (zeroed(case.pruner.network, cut), without_producers(case.pruner.network, cut)):
        torch.testing.assert_close(pruned, outputs(masked, case.images), rtol=0, atol=1e-9 * scale)
    assert float((pruned - dense).abs().max()) > 1e-2 * scale


@pytest.mark.parametrize("criterion", CRITERIA)
def test_what_goes_scores_no_higher_than_what_stays(case: Case, criterion: str) -> None:
    policy = case.policy(criterion)
    kept = case.pruner.space.kept(policy)
    for name, gone in removed_channels(case.pruner.space, policy, case.pruner.scores).items():
        scores = case.pruner.scores[criterion][name]
        stays = [channel for channel in range(len(scores)) if channel not in gone]
        assert len(stays) == kept[name]
        assert scores[list(gone)].max() <= scores[stays].min()


def test_of_equal_scores_the_lower_index_goes_first() -> None:
    assert lowest(torch.tensor([2.0, 1.0, 1.0, 0.0, 1.0]), 3) == (1, 2, 3)
    assert lowest(torch.zeros(100), 40) == tuple(range(40))


def test_a_criterion_without_scores_is_named_with_those_there_are() -> None:
    space = SearchSpace((PruningGroup("a", 8, ()),), {"a": ("l1", "l2")})
    with pytest.raises(ModelError, match=r"group 'a' has no scores by 'taylor'; the study scores it by l1, l2"):
        removed_channels(space, PruningPolicy.uniform(["a"], 0.5, "taylor"), {"l1": {"a": torch.ones(8)}})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"layer9": KeptIndices(out=(0,))}, "has no module 'layer9'"),
        ({"conv1": KeptIndices(out=(0, 16))}, "'conv1' has 16 out channels and cannot keep 2 of them up to 16"),
        ({"conv1": KeptIndices(inputs=())}, "'conv1' has 3 in channels and cannot keep 0 of them"),
    ],
)
def test_a_cut_made_for_another_network_is_refused(cut: Cut, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        shrink(resnet20(), cut)


def test_only_the_classifier_is_frozen(case: Case) -> None:
    assert [group.reason for group in case.groups.frozen] == ["its channels are the network's output"]
    assert len(case.groups.cuttable) >= 2


def test_every_channel_between_input_and_output_is_in_exactly_one_group(case: Case) -> None:
    owned: dict[tuple[str, str], list[int]] = defaultdict(list)
    for group in case.groups.cuttable:
        for member in group.members:
            assert len(member.indices) == group.num_channels * member.width
            owned[member.module, member.side].extend(member.indices)
    layers = [(n, m) for n, m in case.pruner.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for name, module in layers:
        if channels_of(module, "in") != 3 and not is_depthwise(module):  # nobody owns the images' channels
            assert sorted(owned[name, "in"]) == list(range(channels_of(module, "in")))
        if name != case.groups.frozen[0].name:
            assert sorted(owned[name, "out"]) == list(range(channels_of(module, "out")))


def test_the_dense_network_is_untouched_to_the_last_bit(case: Case) -> None:
    network = case.pruner.network
    case.pruner.prune(case.policy("l1"))
    state = network.state_dict()
    assert list(state) == list(case.former)
    assert all(torch.equal(state[name], tensor) for name, tensor in case.former.items())
    assert not any(module.training for module in network.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_a_pruned_network_shares_no_memory_with_the_dense_one(case: Case) -> None:
    owned = {tensor.data_ptr() for tensor in case.pruner.network.state_dict().values()}
    pruned = case.pruner.prune(case.policy("l1"))
    assert not [name for name, tensor in pruned.state_dict().items() if tensor.data_ptr() in owned]


def test_layers_say_the_size_they_have(case: Case) -> None:
    """What a module says of itself is what an exporter reads."""
    for module in case.pruner.prune(case.policy("l1")).modules():
        match module:
            case nn.Conv2d():
                said = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
                assert said == tuple(module.weight.shape)
            case nn.Linear():
                assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                assert {len(module.weight), len(module.bias), len(module.running_mean), len(module.running_var)} == {
                    module.num_features
                }


def test_an_empty_policy_prunes_nothing(case: Case) -> None:
    assert torch.equal(
        outputs(case.pruner.prune(PruningPolicy()), case.images), outputs(case.pruner.network, case.images)
    )
