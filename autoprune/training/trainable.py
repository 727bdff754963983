"""Which parameters are trained: all of a network, or only those of some modules."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Modules that normalise: batch, instance, layer, group and root-mean-square norm."""


def norms_and_head(network: nn.Module) -> set[str]:
    """Return the paths of all modules that normalise, and of the last one with a weight matrix or kernel.

    "Last" means registered last.

    >>> sorted(norms_and_head(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))))
    ['1', '3']
    """
    norms, head = set(), ""
    for path, module in network.named_modules():
        if isinstance(module, NORMS):
            norms.add(path)
        elif any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            head = path
    return {*norms, head}


@contextmanager
def training_only(network: nn.Module, paths: Collection[str] | None) -> Iterator[None]:
    """Train only the parameters of some modules for a stretch of code; afterwards all are as they were.

    Args:
        network: its parameters' ``requires_grad`` is changed meanwhile. A parameter that needed no gradient
            before needs none now.
        paths: of modules, with all they hold, or of parameters; ``None`` or none at all for the whole network.
    """
    before = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    try:
        for name, parameter in network.named_parameters() if paths else ():
            parameter.requires_grad_(before[name] and _lies_in(name, paths or ()))
        yield
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(before.get(name, True))


def _lies_in(name: str, paths: Collection[str]) -> bool:
    """Return whether a parameter is one of the paths or lies below one; the empty path is the whole network.

    >>> _lies_in("layer1.0.conv1.weight", {"layer1.0"}), _lies_in("layer10.weight", {"layer1"})
    (True, False)
    """
    parts = name.split(".")
    return any(".".join(parts[:length]) in paths for length in range(len(parts) + 1))
