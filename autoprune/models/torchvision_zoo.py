"""Torchvision's classifiers by name, with torchvision's weights, and as many outputs as the data has classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.notify import Notify, silent
from autoprune.errors import ModelError, UnknownNameError
from autoprune.models.load_weights import load_weights

PREFIX = "torchvision:"


def build_torchvision(
    source: str, num_classes: int, in_channels: int, weights: str, notify: Notify, remark: Notify = silent
) -> nn.Module:
    """Return one of torchvision's classifiers with ``num_classes`` outputs, in training mode.

    Args:
        source: ``torchvision:NAME``.
        num_classes: outputs.
        in_channels: channels of the data's images; these networks take 3.
        weights: a name such as ``DEFAULT``, a file, or empty for none.
        notify: called with one sentence if the last layer is replaced.
        remark: as :func:`~autoprune.models.build.build_model` takes it.

    Raises:
        UnknownNameError: if torchvision has no such network or weights.
        ModelError: if it cannot be built, or does not fit the data.
    """
    from torchvision import models as zoo

    name = source.removeprefix(PREFIX)
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
    if weights and named is None and not looks_like_file(weights):
        raise UnknownNameError(f"weights of {source}", weights, known_weights, "Or the path of a file.")
    network = _torchvision_network(zoo, name, named, None if named else num_classes)
    if named:
        _fit_head(network, num_classes, f"{source} with weights {named}", notify)
    elif weights:
        load_weights(network, weights, remark)
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
    for head in ("aux1", "aux2", "AuxLogits"):  # they are for long trainings only, and published weights contain them
        if hasattr(network, head):
            network.aux_logits = False  # type: ignore[assignment]
            setattr(network, head, None)
    return network


def looks_like_file(weights: str) -> bool:
    """Return whether weights are given as a file rather than by one of torchvision's names."""
    return Path(weights).suffix != "" or Path(weights).name != weights or Path(weights).exists()


def _fit_head(network: nn.Module, num_classes: int, source: str, notify: Notify) -> None:
    """Replace the last linear layer or convolution if its number of outputs is not ``num_classes``."""
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
