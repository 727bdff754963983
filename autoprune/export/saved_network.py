"""A picked network as a folder: saved without pickle, loaded back bit-equal and trainable.

``model.safetensors`` holds the weights, and ``architecture.json`` how to rebuild the network they fit. The thirty lines
of ``standalone`` do it without us.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from autoprune.core.atomic_write import write_bytes, write_text
from autoprune.core.builtin_names import MODELS
from autoprune.errors import ModelError, UntrustedCodeError
from autoprune.export.architecture import PrunedArchitecture, read_architecture
from autoprune.export.build_dense import build_dense
from autoprune.export.picked_files import ARCHITECTURE, WEIGHTS
from autoprune.models.load_weights import load_weights, own_tensors
from autoprune.pruning.masks.two_of_four_kernels import can_accelerate, to_semi_structured
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.surgery import shrink


def save_network(folder: Path, network: nn.Module, architecture: PrunedArchitecture) -> None:
    """Write ``model.safetensors`` and ``architecture.json``.

    Args:
        folder: where they go.
        network: pruned.
        architecture: of that network.

    Raises:
        StudyError: if they cannot be written.
    """
    write_bytes(folder / WEIGHTS, weights_content(network))
    write_text(folder / ARCHITECTURE, json.dumps(architecture.to_json(), indent=1))


def weights_content(network: nn.Module, facts: Mapping[str, str] | None = None) -> bytes:
    """Return a network's weights as the content of ``model.safetensors``, with facts among its metadata."""
    return save(own_tensors(network), metadata={"format": "pt", **(facts or {})})


def load(folder: str | Path, network: nn.Module | None = None, *, trust_code: bool = False) -> nn.Module:
    """Return a picked network, bit-equal to the one saved, in eval mode on the CPU, trainable, without pickle.

    Args:
        folder: a folder that ``autoprune pick`` wrote.
        network: the dense architecture, needed only if the code it was built by cannot be found here; its
            weights do not matter and it is not modified.
        trust_code: whether the code that the folder names, such as ``net.py:build``, is run to build the dense network.
            Built-in networks, installed plug-ins and torchvision's need no trust.

    Raises:
        ModelError: if the folder is damaged, or the architecture is not the one that was pruned.
        UnknownNameError: if the architecture's name is not known here and no network was given.
        UntrustedCodeError: if the folder names code, and neither trust nor a network was given.
    """
    folder = Path(folder)
    return rebuild(read_architecture(folder), folder / WEIGHTS, network, trust_code=trust_code)


def rebuild(
    architecture: PrunedArchitecture, weights: Path, network: nn.Module | None = None, *, trust_code: bool = False
) -> nn.Module:
    """Return the network of an architecture and a file of weights, in eval mode on the CPU.

    Args:
        architecture: of the pruned network.
        weights: the file of its weights.
        network: as :func:`load` takes it.
        trust_code: as :func:`load` takes it.

    Raises:
        ModelError: if the weights are damaged, or the architecture is not the one that was pruned.
        UnknownNameError: if the architecture's name is not known here and no network was given.
        UntrustedCodeError: if the architecture names code, and neither trust nor a network was given.
    """
    if network is None:
        dense = architecture.dense
        if MODELS.is_code(dense.source) and not trust_code:
            raise UntrustedCodeError(
                f"{str(weights)!r} is rebuilt by the code {dense.source!r}, which would be run. If you trust it, allow "
                "it with trust_code=True (on the command line: --trust-code), or give the dense network as network="
            )
        network = build_dense(dense, seed=0)
    small = shrink(network, architecture.kept)
    load_weights(small, weights)
    return small.cpu().eval()


def load_compressed(
    folder: str | Path, network: nn.Module | None = None, device: str = "cuda", *, trust_code: bool = False
) -> nn.Module:
    """Return a network that was picked with a 2:4 mask for a GPU that multiplies such weights in half the time.

    The masked weights of linear layers are stored compressed, everything is in bfloat16, and nothing can be trained
    or saved any more. Not tested on a GPU yet.

    Args:
        folder: a folder that ``autoprune pick`` wrote.
        network: as :func:`load` takes it.
        device: where it runs.
        trust_code: as :func:`load` takes it.

    Raises:
        ModelError: if the network has no 2:4 mask, or the device has no kernels for it, as no CPU has.
    """
    able, sentence = can_accelerate(device)
    if not able:
        raise ModelError(sentence)
    mask = read_architecture(Path(folder)).policy.mask
    if mask is None or mask.pattern != "2:4":
        raise ModelError(f"{str(folder)!r} was picked without a 2:4 mask; search with --patterns 2:4 to get one")
    loaded = load(folder, network, trust_code=trust_code).to(device, torch.bfloat16)
    to_semi_structured(loaded, Masks.of_zeros(loaded, [layer for layer, share in mask.layers.items() if share]))
    return loaded
