"""The thirty lines of ``docs/how-to/pick-a-network.md``: a picked network rebuilt with PyTorch and safetensors alone.

The page shows this file from its first import on, a test holds the two together, and every pick checks with it that
what was written can do without autoprune.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class Skip(nn.Module):
    """What stands where a dropped block was."""

    def forward(self, x, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Return what came in."""
        return x


def rebuild(folder: str, network: nn.Module) -> nn.Module:
    """Make a dense network, just built, the picked one: in place, in eval mode."""
    file, old = Path(folder, "architecture.json"), Path(folder, "recipe.json")  # what it was called at first
    made = json.loads((file if file.exists() else old).read_text())
    if made["needs_autoprune"]:  # attention that lost heads or width has a forward pass of its own
        raise NotImplementedError(f"load it with autoprune.load: {', '.join(made['needs_autoprune'])}")
    for path, sides in made["kept"].items():
        if "block" in sides:
            network.set_submodule(path, Skip())
    weights = load_file(Path(folder, "model.safetensors"))
    for name, tensor in weights.items():
        path, _, leaf = name.rpartition(".")
        module, empty = network.get_submodule(path), torch.empty_like(tensor)
        is_parameter = isinstance(getattr(module, leaf), nn.Parameter)
        setattr(module, leaf, nn.Parameter(empty) if is_parameter else empty)
    for path, sizes in made["sizes"].items():  # out_channels, groups, num_features …
        for name, size in sizes.items():
            setattr(network.get_submodule(path), name, tuple(size) if isinstance(size, list) else size)
    network.load_state_dict(weights)
    return network.eval()
