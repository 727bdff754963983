"""Whether a network has the weights that a file holds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from autoprune.models.copying.copy_network import copy_network
from autoprune.models.load_weights import own_tensors


def differing_weight(network: nn.Module, path: Path) -> str:
    """Return the name of the first tensor that is another one in a file; empty if all are the same."""
    stored, own = load_file(path), own_tensors(copy_network(network))
    for name, tensor in own.items():
        if name not in stored or stored[name].shape != tensor.shape or not torch.equal(stored[name], tensor):
            return name
    return next((name for name in stored if name not in own), "")
