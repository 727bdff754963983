"""``autoprune inspect``: what can be pruned in a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.main import emit, json_option
from autoprune.cli.options import layer_of, model_options, read_request, root_option, study_argument
from autoprune.errors import UsageError

if TYPE_CHECKING:
    from autoprune.spec import StudySpec


@click.command(
    epilog="""\b
Examples:
  autoprune inspect resnet56 --input 1x32x32
  autoprune inspect torchvision:mobilenet_v2
  autoprune inspect studies/cifar10-resnet20
"""
)
@study_argument
@model_options
@click.option(
    "--input", "shape", metavar="CxHxW", help="Input shape; default: the data's, or 3x224x224 for torchvision."
)
@click.option("--classes", type=int, help="Number of classes; default: the data's.")
@root_option
@json_option
def inspect(
    study: str | None,
    shape: str | None,
    classes: int | None,
    root: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Show the groups of channels that can be pruned in STUDY or in a model, what is frozen and why, and MACs by layer.

    STUDY may be a study, a recipe, or a model's name as --model takes it. No weights are needed and nothing
    is trained or stored. One FLOP is one multiply–accumulate.
    """
    values = layer_of(options)
    if study is not None and _is_model(study):
        values.setdefault("model", {})["source"] = study
        study = None
    spec = read_request(study, root, values).spec
    found = _inspect(spec, *_input_of(spec, shape, classes, bool(values.get("model"))))
    if as_json:
        emit(found)
    else:
        _print(found)


def _is_model(name: str) -> bool:
    from autoprune.builtins import MODELS

    return ":" in name or name in MODELS.names()


def _input_of(
    spec: StudySpec, shape: str | None, classes: int | None, model_given: bool
) -> tuple[tuple[int, int, int], int]:
    """Return the input shape and number of classes: as given, or else the data's."""
    if shape is None and model_given and spec.model.source.startswith("torchvision:"):
        shape, classes = "3x224x224", classes or 1000
    if shape is not None and classes is not None:
        return _parse_shape(shape), classes
    from autoprune.build import task_of

    task = task_of(spec)
    return _parse_shape(shape) if shape else task.input_shape, classes or task.num_classes


def _parse_shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise UsageError(f"--input {text!r} is not of the form CxHxW; write for example 3x224x224")
    return channels, height, width


def _inspect(spec: StudySpec, shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    import torch

    from autoprune.cost.macs import CostModel
    from autoprune.metrics import FLOP_CONVENTION
    from autoprune.pruning.groups import find_groups
    from autoprune.training.models import build_model

    network = build_model(spec.model.source, num_classes=classes, in_channels=shape[0], seed=spec.seed).eval()
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(spec.seed))
    groups = find_groups(network, example)
    cost = CostModel(network, groups.cuttable, example)
    full = cost.measure({group.name: group.num_channels for group in groups.cuttable})
    return {
        "model": spec.model.source,
        "input_shape": list(shape),
        "flop_convention": FLOP_CONVENTION,
        "uncounted": list(full.uncounted),
        "dense": dict(full.values),
        "groups": [
            {
                "name": group.name,
                "channels": group.num_channels,
                "residual": group.is_residual,
                "layers": sorted({member.module for member in group.members}),
            }
            for group in groups.cuttable
        ],
        "frozen": [{"name": g.name, "channels": g.num_channels, "reason": g.reason} for g in groups.frozen],
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "mflops": layer.macs / 1e6,
            }
            for layer in cost.layers
            if layer.macs
        ],
    }


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, dense = Console(), found["dense"]
    shape = "×".join(map(str, found["input_shape"]))
    console.print(
        f"{escape(found['model'])} on {shape}: {dense['mflops']:.2f} MFLOPs ({found['flop_convention']}), "
        f"{dense['mparams']:.3f} M parameters, {dense['size_mb']:.2f} MB",
        highlight=False,
    )
    groups = Table("group", "channels", "kind", "layers it runs through", title="can be pruned")
    for group in found["groups"]:
        kind = "residual stream" if group["residual"] else "inner"
        groups.add_row(escape(group["name"]), str(group["channels"]), kind, str(len(group["layers"])))
    console.print(groups)
    if found["frozen"]:
        frozen = Table("group", "channels", "reason", title="frozen")
        for group in found["frozen"]:
            frozen.add_row(escape(group["name"]), str(group["channels"]), escape(group["reason"]))
        console.print(frozen)
    layers = Table("layer", "kind", "in", "out", "MFLOPs", "share", title="MFLOPs by layer")
    for layer in found["layers"]:
        layers.add_row(
            escape(layer["name"]),
            layer["kind"],
            str(layer["inputs"]),
            str(layer["outputs"]),
            f"{layer['mflops']:.3f}",
            f"{100 * layer['mflops'] / dense['mflops']:.1f} %",
        )
    console.print(layers)
    for note in found["uncounted"]:
        console.print(f"not counted: {note}", markup=False, highlight=False)
