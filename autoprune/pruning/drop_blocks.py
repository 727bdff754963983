"""Dropping residual blocks whole: a module that passes its input on takes the place of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from autoprune.errors import ModelError, did_you_mean


class DroppedBlock(nn.Module):
    """A stand-in for a dropped block, which returns its first argument unchanged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``x`` itself; whatever else the block was called with is ignored."""
        return x


def drop_blocks(network: nn.Module, names: Iterable[str]) -> None:
    """Replace each named module by a :class:`DroppedBlock`, in place; nothing changes if a name is unknown.

    Raises:
        ModelError: if the network has no such module.
    """
    names = list(names)
    known = {name for name, _ in network.named_modules(remove_duplicate=False)} - {""}
    for name in names:
        if name not in known:
            raise ModelError(
                f"the network has no block {name!r}{did_you_mean(name, known)}; the policy was made for another network"
            )
    for name in sorted(names, key=lambda name: -name.count(".")):  # inner ones first, while they can be reached
        replace_module(network, name, DroppedBlock())


def replace_module(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module where another one is, in place."""
    parent, _, leaf = path.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
