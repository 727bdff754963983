"""Every family of torchvision's classifiers can be cut, to less than half of its multiply–accumulates.

These are small relatives: narrow, shallow, or fed with small images. ``scripts/make_network_docs.py`` does the same at
the published sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from pruning_nets import Network, counted, outputs, random_cut
from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.maxvit import MaxVit
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vgg import VGG, make_layers

from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.groups import Groups, find_groups
from autoprune.pruning.surgery import shrink, zeroed

MAX_SPARSITY = 0.9


def with_small_classifier(network: nn.Module, layers: tuple[int, ...], reads: int) -> nn.Module:
    """Return AlexNet or VGG with 48 instead of 4096 hidden units."""
    for layer, (out, into) in zip(layers, [(48, reads), (48, 48), (10, 48)], strict=True):
        network.classifier[layer] = nn.Linear(into, out)
    return network


def vgg() -> nn.Module:
    widths = [8, "M", 16, "M", 32, 32, "M", 32, 32, "M", 64, 64, "M"]  # an eighth of VGG-11
    return with_small_classifier(VGG(make_layers(widths)), (0, 3, 6), 64 * 49)


def swin(version: int) -> nn.Module:
    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    return SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=10, **second)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 1), CNBlockConfig(48, None, 2)], num_classes=10)


def efficientnet(first: type[MBConvConfig | FusedMBConvConfig]) -> nn.Module:
    settings = [first(1, 3, 1, 16, 8, 1), first(6, 3, 2, 8, 16, 2), MBConvConfig(6, 5, 2, 16, 24, 2)]
    return EfficientNet(settings, dropout=0.2, num_classes=10)


def resnet(groups: int, width: int) -> nn.Module:
    return ResNet(Bottleneck, [1, 1, 1, 1], 10, groups=groups, width_per_group=width)


def googlenet() -> nn.Module:
    return zoo.googlenet(num_classes=10, aux_logits=False, init_weights=False)


def inception() -> nn.Module:
    return zoo.inception_v3(num_classes=10, aux_logits=False, init_weights=False)


def small(build: Callable[..., nn.Module], **options: object) -> Callable[[], nn.Module]:
    return partial(build, num_classes=10, **options)


FAMILIES: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "alexnet": (lambda: with_small_classifier(zoo.AlexNet(10), (1, 4, 6), 256 * 36), 64),
    "vgg": (vgg, 32),
    "resnet": (small(zoo.resnet18), 32),
    "resnext": (lambda: resnet(32, 1), 32),
    "wide resnet": (lambda: resnet(1, 32), 32),
    "densenet": (lambda: DenseNet(8, (2, 3, 2), 16, num_classes=10), 32),
    "googlenet": (googlenet, 32),
    "inception": (inception, 75),
    "squeezenet": (small(zoo.squeezenet1_0), 32),
    "mobilenet v2": (small(zoo.mobilenet_v2, width_mult=0.25), 32),
    "mobilenet v3": (small(zoo.mobilenet_v3_small), 32),
    "mnasnet": (small(zoo.mnasnet0_5), 32),
    "shufflenet v2": (small(zoo.shufflenet_v2_x0_5), 32),
    "efficientnet": (lambda: efficientnet(MBConvConfig), 32),
    "efficientnet v2": (lambda: efficientnet(FusedMBConvConfig), 32),
    "regnet": (small(zoo.regnet_y_400mf), 32),
    "convnext": (convnext, 32),
    "vit": (lambda: zoo.VisionTransformer(16, 2, 2, 4, 32, 64, num_classes=10), 16),
    "swin": (lambda: swin(1), 32),
    "swin v2": (lambda: swin(2), 32),
    "maxvit": (lambda: MaxVit((64, 64), 16, 2, [32, 64], [1, 1], 8, 0.1, num_classes=10), 64),
}
REASONS: Mapping[str, tuple[str, ...]] = {  # what is frozen besides the output
    "shufflenet v2": ("all its 48 channels are coupled with one another",),
}


def with_statistics_of(images: Tensor, network: nn.Module) -> nn.Module:
    """Return the network with norms that know their inputs, without which a deep one says the same of every image."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        network(images)
    return network.eval()


@dataclass(frozen=True)
class Case:
    """A network in float64 with its groups."""

    name: str
    network: nn.Module
    groups: Groups
    images: Tensor


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    build, pixels = FAMILIES[request.param]
    images = torch.randn(4, 3, pixels, pixels)
    network = with_statistics_of(images, Network(build).lively())
    return Case(request.param, network.double(), find_groups(network, images[:2]), images.double())


def test_no_more_is_frozen_than_must_be(case: Case) -> None:
    reasons = [group.reason for group in case.groups.frozen]
    assert len(reasons) == 1 + len(REASONS.get(case.name, ()))
    assert reasons[-1] == "its channels are the network's output"
    for reason, words in zip(reasons, REASONS.get(case.name, ()), strict=False):
        assert words in reason


def test_half_of_the_work_can_go(case: Case) -> None:
    removed = {group.name: range(int(group.num_channels * MAX_SPARSITY)) for group in case.groups.cuttable}
    smallest = shrink(case.network, plan_cut(case.network, case.groups.cuttable, removed))
    assert counted(smallest, case.images)[0] <= 0.5 * counted(case.network, case.images)[0]


def test_pruned_is_zeroed_and_not_dense(case: Case) -> None:
    cut = random_cut(case.network, case.groups.cuttable)
    dense, pruned = outputs(case.network, case.images), outputs(shrink(case.network, cut), case.images)
    scale = float(dense.abs().max())
    torch.testing.assert_close(pruned, outputs(zeroed(case.network, cut), case.images), rtol=0, atol=1e-12 * scale)
    assert float((pruned - dense).abs().max()) > 1e-2 * scale


def test_different_images_have_different_outputs(case: Case) -> None:
    """Else nothing of the above would say anything of the layers below."""
    first, second, *_ = outputs(case.network, case.images)
    assert float((first - second).abs().max()) > 1e-3 * float(first.abs().max())
