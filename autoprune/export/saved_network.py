"""A picked network as a folder: saved without pickle, loaded back bit-equal and trainable.

``model.safetensors`` holds the weights; ``recipe.json`` says how to rebuild the network they fit: which
architecture, and which channels of which layer are kept. The thirty lines of ``export/plain.py`` do it without us.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from autoprune.core.atomic_write import write_bytes, write_text
from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError
from autoprune.export.picked_files import CARD, CARD_JSON, RECIPE, WEIGHTS
from autoprune.models.build import build_model
from autoprune.models.load_weights import load_weights, own_tensors
from autoprune.pruning.cut_plan import BLOCK, CutPlan, KeptChannels
from autoprune.pruning.layers.attention_heads import SlimAttention
from autoprune.pruning.masks.two_of_four_kernels import can_accelerate, to_semi_structured
from autoprune.pruning.masks.weight_masks import Masks
from autoprune.pruning.surgery import shrink

FORMAT = 1
# what PyTorch's layers call their sizes, for those who rebuild a network without us
_SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels"),
    *("num_groups", "normalized_shape", "hidden_size", "input_size", "embedding_dim", "num_parameters"),
)


@dataclass(frozen=True)
class Architecture:
    """Say how the dense network is built: the arguments of ``build_model``, and the input it takes.

    Attributes:
        source: a built-in, ``torchvision:NAME``, ``pkg.mod:fn`` or ``file.py:fn``.
        num_classes: outputs.
        input_shape: of one example: channels, height and width of an image, features of a row.
    """

    source: str
    num_classes: int
    input_shape: tuple[int, ...]


def save_network(
    folder: Path,
    network: nn.Module,
    cut: CutPlan,
    architecture: Architecture,
    policy: PruningPolicy,
    versions: Mapping[str, str],
) -> None:
    """Write ``model.safetensors`` and ``recipe.json``.

    Args:
        folder: where they go.
        network: pruned.
        cut: what was kept of every module that was cut.
        architecture: of the dense network.
        policy: that the cut follows.
        versions: package → version.

    Raises:
        StudyError: if they cannot be written.
    """
    write_bytes(folder / WEIGHTS, weights_content(network))
    write_text(folder / RECIPE, json.dumps(recipe_of(network, cut, architecture, policy, versions), indent=1))


def recipe_of(
    network: nn.Module, cut: CutPlan, architecture: Architecture, policy: PruningPolicy, versions: Mapping[str, str]
) -> dict[str, Any]:
    """Return what :func:`rebuild` needs to know besides the weights, as plain types."""
    return {
        "format": FORMAT,
        "architecture": {
            "source": architecture.source,
            "num_classes": architecture.num_classes,
            "input_shape": list(architecture.input_shape),
        },
        "kept": {module: kept.to_json() for module, kept in sorted(cut.items())},
        "shapes": {name: list(tensor.shape) for name, tensor in network.state_dict().items()},
        "sizes": _sizes_of(network, cut),
        "needs_autoprune": [path for path, module in network.named_modules() if _is_special(module)],
        "policy": json.loads(policy.to_json()),
        "versions": dict(versions),
    }


def weights_content(network: nn.Module, facts: Mapping[str, str] | None = None) -> bytes:
    """Return a network's weights as the content of ``model.safetensors``, with facts among its metadata."""
    return save(own_tensors(network), metadata={"format": "pt", **(facts or {})})


def _sizes_of(network: nn.Module, cut: CutPlan) -> dict[str, dict[str, Any]]:
    """Return what every module that was cut says of its own size, as the attributes of PyTorch's layers."""
    modules = dict(network.named_modules(remove_duplicate=False))
    cut_paths = [path for path, kept in sorted(cut.items()) if path in modules and BLOCK not in kept.sides]
    known = {path: vars(modules[path]) for path in cut_paths}
    found = {path: {name: own[name] for name in _SIZES if name in own} for path, own in known.items()}
    return {path: sizes for path, sizes in found.items() if sizes}


def _is_special(module: nn.Module) -> bool:
    """Return whether a module has a forward pass of ours, as attention has that was cut."""
    return isinstance(module, SlimAttention)


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return the recipe of a picked folder.

    Raises:
        ModelError: if it is missing, damaged or of another format.
    """
    path = folder / RECIPE
    try:
        recipe: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if recipe["format"] != FORMAT:
            raise ModelError(f"{str(path)!r} has format {recipe['format']}; this autoprune reads format {FORMAT}")
        return recipe
    except FileNotFoundError:
        missing = missing_files(folder)
        if WEIGHTS in missing:
            raise ModelError(
                f"{str(folder)!r} is not a picked network: it has no {RECIPE}; `autoprune pick` makes such folders"
            ) from None
        raise ModelError(
            f"{str(folder)!r} is half written or half copied: it lacks {', '.join(missing)}; copy it again, or pick "
            f"the trial again with --force"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as a recipe: {error}; pick the trial again") from error


def missing_files(folder: Path) -> list[str]:
    """Return what a picked folder lacks, by name: what each has, and what its card names, in the size it names."""
    needed = [name for name in (WEIGHTS, RECIPE, CARD_JSON, CARD) if not (folder / name).is_file()]
    try:
        files = json.loads((folder / CARD_JSON).read_text(encoding="utf-8")).get("files", {})
        sizes = {name: int(facts["bytes"]) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return needed if CARD_JSON in needed else [*needed, f"a {CARD_JSON} that can be read"]
    there = {name: (folder / name).stat().st_size for name in sizes if (folder / name).is_file()}
    return [*needed, *(name for name, size in sizes.items() if there.get(name) != size and name not in needed)]


def _understood(recipe: Mapping[str, Any], path: Path) -> tuple[Architecture, dict[str, KeptChannels]]:
    """Return what a recipe says.

    Raises:
        ModelError: if something is missing or of another type, or kept channels are not ascending.
    """
    try:
        wanted = recipe["architecture"]
        shape = tuple(map(int, wanted["input_shape"]))
        if not shape or min(shape) < 1:
            raise ValueError(f"its input shape is {list(shape)}")
        architecture = Architecture(wanted["source"], wanted["num_classes"], shape)
        cut = {module: KeptChannels.from_json(kept) for module, kept in recipe["kept"].items()}
        if any(side != tuple(sorted(set(side))) for kept in cut.values() for side in kept.sides.values()):
            raise ValueError("kept channels are not ascending")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); copy it again, or pick the trial again"
        ) from error
    return architecture, cut


def architecture_of(folder: Path) -> Architecture:
    """Return how the dense network behind a picked one is built, and what input both take.

    Raises:
        ModelError: if the folder is damaged.
    """
    return _understood(read_recipe(folder), folder / RECIPE)[0]


def load(folder: str | Path, network: nn.Module | None = None) -> nn.Module:
    """Return a picked network, bit-equal to the one saved, in eval mode on the CPU, trainable, without pickle.

    Args:
        folder: a folder that ``autoprune pick`` wrote.
        network: the dense architecture, needed only if the code it was built by cannot be found here; its
            weights do not matter and it is not modified.

    Raises:
        ModelError: if the folder is damaged, or the architecture is not the one that was pruned.
        UnknownNameError: if the architecture's name is not known here and no network was given.
    """
    folder = Path(folder)
    return rebuild(read_recipe(folder), folder / RECIPE, folder / WEIGHTS, network)


def rebuild(recipe: Mapping[str, Any], told_by: Path, weights: Path, network: nn.Module | None = None) -> nn.Module:
    """Return the network of a recipe and a file of weights, in eval mode on the CPU.

    Args:
        recipe: as :func:`recipe_of` returned it.
        told_by: the file it was read from, to be named if it is damaged.
        weights: the file of its weights.
        network: as :func:`load` takes it.

    Raises:
        ModelError: if one of the files is damaged, or the architecture is not the one that was pruned.
        UnknownNameError: if the architecture's name is not known here and no network was given.
    """
    wanted, cut = _understood(recipe, told_by)
    if network is None:
        network = build_model(wanted.source, num_classes=wanted.num_classes, input_shape=wanted.input_shape, seed=0)
    small = shrink(network, cut)
    load_weights(small, weights)
    return small.cpu().eval()


def load_compressed(folder: str | Path, network: nn.Module | None = None, device: str = "cuda") -> nn.Module:
    """Return a network that was picked with a 2:4 mask for a GPU that multiplies such weights in half the time.

    The masked weights of linear layers are stored compressed, everything is in bfloat16, and nothing can be trained
    or saved any more. Not tested on a GPU yet.

    Args:
        folder: a folder that ``autoprune pick`` wrote.
        network: as :func:`load` takes it.
        device: where it shall run.

    Raises:
        ModelError: if the network has no 2:4 mask, or the device has no kernels for it, as no CPU has.
    """
    able, sentence = can_accelerate(device)
    if not able:
        raise ModelError(sentence)
    mask = read_recipe(Path(folder))["policy"].get("mask")
    if not mask or mask["pattern"] != "2:4":
        raise ModelError(f"{str(folder)!r} was picked without a 2:4 mask; search with --patterns 2:4 to get one")
    loaded = load(folder, network).to(device, torch.bfloat16)
    to_semi_structured(
        loaded, Masks.of_zeros(loaded, [layer for layer, sparsity in mask["layers"].items() if sparsity])
    )
    return loaded
