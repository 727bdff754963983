"""How a pruned network is rebuilt: which dense architecture it comes from, and which channels of which layer stay.

``architecture.json`` of a picked folder holds it, and so do the metadata of the weights of a trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from autoprune.core.json_values import DAMAGE, JsonObject, parse_json
from autoprune.core.policy import PruningPolicy
from autoprune.errors import ModelError
from autoprune.export.picked_files import ARCHITECTURE, WEIGHTS, architecture_file, missing_files
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.structure import InputStructure
from autoprune.pruning.cut_plan import BLOCK, CutPlan, KeptChannels
from autoprune.pruning.layers.attention_heads import SlimAttention

FORMAT = 1
# what PyTorch's layers call their sizes, for those who rebuild a network without us
_SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels"),
    *("num_groups", "normalized_shape", "hidden_size", "input_size", "embedding_dim", "num_parameters"),
)
LayerSizes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Module path → attribute of PyTorch's layer, such as ``out_channels`` → an integer or several."""


@dataclass(frozen=True)
class Architecture:
    """How the dense network is built, and what it is called with.

    Attributes:
        source: a built-in, ``torchvision:NAME``, ``pkg.mod:fn`` or ``file.py:fn``.
        num_classes: outputs, with which the source is called; 0 if it is not.
        input_shape: of one example: channels, height and width of an image, features of a row; empty if the inputs
            are not one tensor.
        inputs: the structure of inputs that are not one tensor of real numbers, ``None`` of those that are.
        offers: further numbers of the data, with which the source is called if it accepts them, as ``num_users``.
    """

    source: str
    num_classes: int
    input_shape: tuple[int, ...]
    inputs: InputStructure | None = None
    offers: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls, source: str, inputs: Inputs, num_classes: int = 0, offers: Mapping[str, int] | None = None
    ) -> Architecture:
        """Return the architecture of a network by one batch of its inputs.

        Args:
            source: what builds it.
            inputs: of any structure.
            num_classes: outputs, with which the source is called; 0 if it is not.
            offers: further numbers of the data that the source may accept.
        """
        structure = None if inputs.is_plain else InputStructure.of(inputs)
        return cls(source, num_classes, inputs.shape, structure, dict(offers or {}))

    def example(self, count: int = 1) -> Inputs:
        """Return inputs that the network takes, normal noise where they are real numbers.

        Args:
            count: examples; where they cannot be told apart, there are as many as ever.

        Raises:
            ModelError: if it takes objects of the user's own.
        """
        if self.inputs is not None:
            return self.inputs.example().of_size(count)
        generator = torch.Generator().manual_seed(0)
        return Inputs.of(torch.rand(count, *self.input_shape, generator=generator))

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        told: JsonObject = {"source": self.source, "num_classes": self.num_classes}
        told["input_shape"] = list(self.input_shape)
        if self.inputs is not None:
            told["inputs"] = self.inputs.to_json()
        if self.offers:
            told["offers"] = dict(self.offers)
        return told

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Return what :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: if something is missing or damaged, or the one tensor that it takes has no
                dimension, or an empty one.
        """
        shape = tuple(map(int, data["input_shape"]))
        inputs = InputStructure.from_json(data["inputs"]) if "inputs" in data else None
        if inputs is None and (not shape or min(shape) < 1):
            raise ValueError(f"its input shape is {list(shape)}")
        offers = {str(name): int(number) for name, number in data.get("offers", {}).items()}
        return cls(str(data["source"]), int(data["num_classes"]), shape, inputs, offers)


@dataclass(frozen=True)
class PrunedArchitecture:
    """A pruned network but for its weights.

    Attributes:
        dense: the architecture that was pruned.
        kept: what stays of every module that was cut.
        policy: that the cut follows.
        shapes: name of each tensor → its shape.
        sizes: what PyTorch's layers that were cut say of their own size.
        needs_autoprune: paths of modules with a forward pass of ours, as attention has that was cut.
        versions: package → version it was pruned with.
    """

    dense: Architecture
    kept: CutPlan
    policy: PruningPolicy
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: LayerSizes = field(default_factory=dict)
    needs_autoprune: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, network: nn.Module, cut: CutPlan, dense: Architecture, policy: PruningPolicy, versions: Mapping[str, str]
    ) -> PrunedArchitecture:
        """Return the architecture of a network that was pruned.

        Args:
            network: pruned.
            cut: what was kept of every module that was cut.
            dense: how the network before pruning is built.
            policy: that the cut follows.
            versions: package → version.
        """
        return cls(
            dense,
            dict(sorted(cut.items())),
            policy,
            {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()},
            _sizes_of(network, cut),
            tuple(path for path, module in network.named_modules() if isinstance(module, SlimAttention)),
            dict(versions),
        )

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "format": FORMAT,
            "architecture": self.dense.to_json(),
            "kept": {module: kept.to_json() for module, kept in self.kept.items()},
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "sizes": {module: dict(sizes) for module, sizes in self.sizes.items()},
            "needs_autoprune": list(self.needs_autoprune),
            "policy": json.loads(self.policy.to_json()),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PrunedArchitecture:
        """Return what :meth:`to_json` wrote, now or in an earlier version of this format.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: if something is missing or of another type, or kept
                channels are not ascending.
        """
        kept = {module: KeptChannels.from_json(sides) for module, sides in data["kept"].items()}
        if any(side != tuple(sorted(set(side))) for each in kept.values() for side in each.sides.values()):
            raise ValueError("kept channels are not ascending")
        return cls(
            Architecture.from_json(data["architecture"]),
            kept,
            PruningPolicy.from_json(data["policy"]),
            {name: tuple(shape) for name, shape in data.get("shapes", {}).items()},
            data.get("sizes", {}),  # the first folders had neither these
            tuple(data.get("needs_autoprune", ())),  # nor these
            dict(data.get("versions", {})),
        )


def _sizes_of(network: nn.Module, cut: CutPlan) -> LayerSizes:
    """Return what every module that was cut says of its own size, as the attributes of PyTorch's layers."""
    modules = dict(network.named_modules(remove_duplicate=False))
    cut_paths = [path for path, kept in sorted(cut.items()) if path in modules and BLOCK not in kept.sides]
    known = {path: vars(modules[path]) for path in cut_paths}
    found = {path: {name: own[name] for name in _SIZES if name in own} for path, own in known.items()}
    return {path: sizes for path, sizes in found.items() if sizes}


def read_architecture(folder: Path) -> PrunedArchitecture:
    """Return the architecture of a picked folder.

    Raises:
        ModelError: if it is missing, damaged or of another format.
    """
    path = architecture_file(folder)
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise ModelError(f"{str(path)!r} has format {data['format']}; this autoprune reads format {FORMAT}")
    except FileNotFoundError:
        raise _missing(folder) from None
    except (OSError, *DAMAGE) as error:
        raise ModelError(f"{str(path)!r} cannot be read as an architecture: {error}; pick the trial again") from error
    try:
        return PrunedArchitecture.from_json(data)
    except DAMAGE as error:
        raise ModelError(
            f"{str(path)!r} is damaged ({type(error).__name__}: {error}); copy it again, or pick the trial again"
        ) from error


def _missing(folder: Path) -> ModelError:
    missing = missing_files(folder)
    if WEIGHTS in missing:
        return ModelError(
            f"{str(folder)!r} is not a picked network: it has no {ARCHITECTURE}; `autoprune pick` makes such folders"
        )
    return ModelError(
        f"{str(folder)!r} is half written or half copied: it lacks {', '.join(missing)}; copy it again, or pick "
        f"the trial again with --force"
    )
