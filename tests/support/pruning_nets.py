"""Small networks of every kind of layer, and what the tests of pruning do with them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_counter import counting_flops
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck
from torchvision.models.shufflenetv2 import InvertedResidual
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from autoprune.core.channel_groups import PruningGroup
from autoprune.models.cifar_resnet import CifarResNet
from autoprune.pruning.cut_plan import CutPlan, plan_cut

OUTPUT = "its channels are the network's output"


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


class Recurrent(nn.Module):
    """Read a sequence by two layers in both directions, and classify the mean of what they say."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10)
        self.layers = kind(10, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(x).relu())[0].mean(1))


class Encoder(nn.Module):
    """Embed words and their places, attend twice, and classify the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.place = nn.Embedding(11, 16), nn.Parameter(torch.randn(1, 7, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.words(x) + self.place).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 16), nn.GELU(), nn.Linear(16, 10)
    )


def resnext() -> nn.Module:
    blocks = (Bottleneck(32, 8, groups=4, base_width=32) for _ in range(2))
    stem = nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def shuffled() -> nn.Module:
    units = InvertedResidual(12, 16, 2), InvertedResidual(16, 16, 1), InvertedResidual(16, 32, 2)
    return nn.Sequential(nn.Conv2d(3, 12, 3), *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def convnext() -> nn.Module:
    stages = [CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 2)]
    return ConvNeXt(stages, layer_scale=0.5, num_classes=10)


def swin(version: int) -> nn.Module:
    second = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    return SwinTransformer([4, 4], 12, [2, 1], [2, 4], [4, 4], num_classes=10, **second)


@dataclass(frozen=True)
class Network:
    """Say how to build a network and feed it.

    Attributes:
        build: makes it.
        shape: of one input; of indices of 11 words if it has one dimension.
        silent: whether a channel that is made as zero is zero wherever it is read, so that readers can be left alone.
        has_blocks: whether modules of it can be dropped.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 16, 16)
    silent: bool = True
    has_blocks: bool = False

    def example(self, count: int = 1) -> Tensor:
        return torch.randint(11, (count, *self.shape)) if len(self.shape) == 1 else torch.randn(count, *self.shape)

    def lively(self) -> nn.Module:
        """Return one in eval mode with random norms, scales and zero weights: no channel is like another."""
        network = self.build().eval()
        for name, tensor in network.named_parameters():
            if tensor.dim() == 1 or len(tensor.unique()) == 1:
                nn.init.normal_(tensor, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
        for name, tensor in network.named_buffers():
            if name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.5, 2.0)
            elif name.endswith("running_mean"):
                nn.init.normal_(tensor, std=0.5)
        return network


NETWORKS: Mapping[str, Network] = {
    "resnet8": Network(lambda: CifarResNet(1), has_blocks=True),
    "option-a": Network(PaddedShortcut),
    "vgg": Network(Vgg, (3, 32, 32)),
    "concat": Network(Concat),
    "depthwise": Network(Depthwise),
    "densenet": Network(lambda: DenseNet(6, (2, 2), 8, num_classes=10), (3, 32, 32)),
    "resnext": Network(resnext, has_blocks=True),
    "shufflenet": Network(shuffled),
    "mlp": Network(mlp, (3, 8, 8)),
    "lstm": Network(lambda: Recurrent(nn.LSTM), (5, 6)),
    "gru": Network(lambda: Recurrent(nn.GRU), (5, 6)),
    "rnn": Network(lambda: Recurrent(nn.RNN), (5, 6)),
    "encoder": Network(Encoder, (7,), silent=False, has_blocks=True),
    "vit": Network(lambda: VisionTransformer(16, 4, 2, 4, 16, 24, num_classes=10), silent=False, has_blocks=True),
    "swin": Network(lambda: swin(1), (3, 32, 32), silent=False, has_blocks=True),
    "swin v2": Network(lambda: swin(2), (3, 32, 32), silent=False, has_blocks=True),
    "convnext": Network(convnext, (3, 32, 32), silent=False, has_blocks=True),
}


class Body(nn.Module):
    """Put something between a convolution of 8 channels, ``stem``, and one of 12, ``plain``.

    Args:
        flow: (this module, what the stem made) → images of ``channels`` channels.
        channels: what ``plain`` reads.
        parts: modules, parameters and, as tensors, buffers that ``flow`` uses, by name.
    """

    example = torch.Size((2, 3, 8, 8))

    def __init__(self, flow: Flow, channels: int = 8, **parts: Part) -> None:
        super().__init__()
        self.flow = flow
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        _attach(self, parts)
        self.plain, self.head = nn.Conv2d(channels, 12, 1), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.flow(self, self.stem(x))).tanh().mean((2, 3)))


class Tokens(nn.Module):
    """Put something between a linear layer that makes 8 channels of each of 5 tokens, ``embed``, and the head.

    Args:
        flow: (this module, what was embedded) → ``(N, channels)``.
        channels: what the head reads.
        parts: as for :class:`Body`.
    """

    example = torch.Size((2, 5, 6))

    def __init__(self, flow: Flow, channels: int = 8, **parts: Part) -> None:
        super().__init__()
        self.flow = flow
        self.embed = nn.Linear(6, 8)
        _attach(self, parts)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flow(self, self.embed(x)))


Flow = Callable[[Any, Tensor], Tensor]


Part = nn.Module | Tensor | int | list[int]


def _attach(module: nn.Module, parts: Mapping[str, Part]) -> None:
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            module.register_buffer(name, part)
        else:
            setattr(module, name, part)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def random_cut(network: nn.Module, groups: Iterable[PruningGroup], seed: int = 0) -> CutPlan:
    """Return a cut that takes a random share of random channels out of every group."""
    draw = random.Random(seed)
    removed = {
        group.name: draw.sample(range(group.num_channels), draw.randint(1, max(1, group.num_channels * 3 // 4)))
        for group in groups
    }
    return plan_cut(network, groups, removed)


def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.eval()(inputs)


def counted(network: nn.Module, inputs: Tensor) -> tuple[int, int, int]:
    """Count without the package: PyTorch's FLOPs of one input halved, parameters, bytes of the state."""
    with counting_flops() as counter:
        network.eval()(inputs[:1])
    stored = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in network.parameters()), stored
