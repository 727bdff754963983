"""The CIFAR ResNets, and :func:`build_model`, the one way from a name to a network.

The CIFAR ResNets are those of He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016,
arXiv:1512.03385, section 4.2), with a projection where the shape changes (their option B), because a
shortcut that pads channels with zeros cannot be pruned. Module names are torchvision's. Weights are read
by ``weights``; the networks of ``lstm``, ``mlp`` and ``vit``, and anything from torchvision or from the user, go
through ``build_model`` too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.builtin_names import MODELS
from autoprune.core.shapes import Shape, channels_of, image_of
from autoprune.core.user_code import call_with_accepted
from autoprune.errors import ModelError, UnknownNameError
from autoprune.models.load_weights import load_weights

__all__ = ["build_model", "count_parameters", "load_weights", "resnet20", "resnet32", "resnet44", "resnet56"]

_log = logging.getLogger(__name__)
_TORCHVISION = "torchvision:"


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, ``(N, C, H, W)`` to ``(N, channels, H/stride, W/stride)``."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(F(x) + shortcut(x))."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class CifarResNet(nn.Module):
    """A ResNet of ``6 · blocks + 2`` layers for small images: three stages of 16, 32 and 64 channels.

    Args:
        blocks: residual blocks in each stage.
        num_classes: outputs.
        in_channels: channels of the images, 1 or 3 as a rule.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(N, num_classes)`` for images ``(N, C, H, W)``."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet20(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 20 layers: 40.81 MMACs, 0.27 M parameters on 3×32×32."""
    return _cifar_resnet(20, num_classes, in_channels, input_shape)


def resnet32(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 32 layers: 69.12 MMACs, 0.47 M parameters on 3×32×32."""
    return _cifar_resnet(32, num_classes, in_channels, input_shape)


def resnet44(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 44 layers: 97.44 MMACs, 0.66 M parameters on 3×32×32."""
    return _cifar_resnet(44, num_classes, in_channels, input_shape)


def resnet56(num_classes: int = 10, in_channels: int = 3, input_shape: Shape | None = None) -> CifarResNet:
    """Return the CIFAR ResNet of 56 layers: 125.75 MMACs, 0.86 M parameters on 3×32×32."""
    return _cifar_resnet(56, num_classes, in_channels, input_shape)


def build_model(
    source: str,
    *,
    num_classes: int,
    in_channels: int | None = None,
    input_shape: Shape | None = None,
    seed: int,
    weights: str = "",
    notify: Callable[[str], None] = _log.warning,
) -> nn.Module:
    """Build a network on the CPU, in training mode, and load its weights.

    The same arguments give the same bits: initialisation is seeded, and the global random state put back.

    Args:
        source: a built-in or plug-in (``resnet56``), ``torchvision:NAME``, or the user's own ``pkg.mod:fn``
            or ``file.py:fn``, called with whichever of ``num_classes``, ``in_channels`` and ``input_shape`` it
            accepts.
        num_classes: outputs the data asks for.
        in_channels: channels of an image, or features of a row; needed only without ``input_shape``, which knows.
        input_shape: of one example: ``(C, H, W)``, ``(F,)`` or ``(T, F)``; ``None`` for images of any size.
        seed: for the initial weights.
        weights: empty for fresh ones; a file; or for torchvision the name of its weights, ``DEFAULT`` or
            ``IMAGENET1K_V1``, downloaded once.
        notify: told in one sentence when a classifier was replaced because it had another number of outputs.

    Raises:
        UnknownNameError: if nothing answers to the source, or to the name of the torchvision weights.
        ModelError: if the network cannot be built, or the weights not be loaded into it.
    """
    offers = {"num_classes": num_classes, **_input_offers(source, in_channels, input_shape)}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if source.startswith(_TORCHVISION):
            if input_shape is not None:
                image_of(input_shape, source)
            return _build_torchvision(source, num_classes, offers["in_channels"], weights, notify)
        network = call_with_accepted(MODELS.get(source), source, ModelError, **offers)
    if not isinstance(network, nn.Module):
        raise ModelError(f"model {source!r} returned {type(network).__name__}; expected a torch.nn.Module")
    if weights:
        load_weights(network, weights)
    return network.train()


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, shared ones once; buffers are not counted.

    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in network.parameters())


def _input_offers(source: str, in_channels: int | None, input_shape: Shape | None) -> dict[str, Any]:
    """Return what a network may be told about its input; the shape, where it is known, decides the channels."""
    if input_shape is not None:
        return {"in_channels": channels_of(input_shape), "input_shape": input_shape}
    if in_channels is None:
        raise ModelError(f"model {source!r} was asked for without in_channels and input_shape; give one of them")
    return {"in_channels": in_channels}


def _cifar_resnet(depth: int, num_classes: int, in_channels: int, input_shape: Shape | None) -> CifarResNet:
    if input_shape is not None:
        in_channels = image_of(input_shape, f"resnet{depth}")[0]
    return CifarResNet((depth - 2) // 6, num_classes, in_channels)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _build_torchvision(
    source: str, num_classes: int, in_channels: int, weights: str, notify: Callable[[str], None]
) -> nn.Module:
    from torchvision import models as zoo

    name = source.removeprefix(_TORCHVISION)
    known = zoo.list_models(module=zoo)
    if name not in known:
        raise UnknownNameError("torchvision classifier", name, known)
    if in_channels != 3:
        raise ModelError(
            f"{source} takes images of 3 channels, and the data has {in_channels}; "
            "use a built-in network such as 'resnet20', convert the images to RGB, or give your own 'file.py:fn'"
        )
    known_weights = [member.name for member in zoo.get_model_weights(name)] + ["DEFAULT"]
    named = weights if weights in known_weights else None
    if weights and named is None and not _looks_like_file(weights):
        raise UnknownNameError(f"weights of {source}", weights, known_weights, "Or the path of a file.")
    network = _torchvision_network(zoo, name, named, None if named else num_classes)
    if named:
        _fit_head(network, num_classes, f"{source} with weights {named}", notify)
    elif weights:
        load_weights(network, weights)
    return network.train()


def _torchvision_network(zoo: Any, name: str, weights: str | None, num_classes: int | None) -> nn.Module:
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3") and not weights:  # torchvision's own initialisation takes a minute
        options |= {"aux_logits": False, "init_weights": False}
    try:
        network = zoo.get_model(name, weights=weights, **options)
    except (OSError, RuntimeError) as error:  # no network, no room, or a damaged download
        raise ModelError(
            f"torchvision:{name} could not be built with weights {weights!r}: {type(error).__name__}: {error}. "
            f"Check the connection, or place the file in {torch.hub.get_dir()}/checkpoints."
        ) from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"torchvision:{name} is {type(network).__name__}; expected a torch.nn.Module")
    for head in ("aux1", "aux2", "AuxLogits"):  # they serve long trainings only, and published weights bring them
        if hasattr(network, head):
            network.aux_logits = False  # type: ignore[assignment]
            setattr(network, head, None)
    return network


def _looks_like_file(weights: str) -> bool:
    return Path(weights).suffix != "" or Path(weights).name != weights or Path(weights).exists()


def _fit_head(network: nn.Module, num_classes: int, source: str, notify: Callable[[str], None]) -> None:
    """Replace the last linear layer or convolution if it has another number of outputs than asked for."""
    name, head = _last(
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    )
    fresh: nn.Module
    if isinstance(head, nn.Linear):
        outputs, fresh = head.out_features, nn.Linear(head.in_features, num_classes, head.bias is not None)
    else:  # SqueezeNet classifies with a 1×1 convolution
        outputs, fresh = head.out_channels, nn.Conv2d(head.in_channels, num_classes, head.kernel_size)
    if outputs != num_classes:
        parent, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, fresh)
        notify(
            f"{source} has {outputs} outputs and the data {num_classes} classes: "
            f"its classifier {name!r} was replaced by an untrained one; train the network before pruning it"
        )


def _last(pairs: Iterable[tuple[str, nn.Module]]) -> tuple[str, Any]:
    return list(pairs)[-1]
