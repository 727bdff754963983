"""``autoprune inspect``: what can be pruned in a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import cost_line, emit, json_option
from autoprune.cli.shared_options import (
    example_option,
    parse_shape,
    root_option,
    shape_option,
    study_argument,
    trust_option,
)
from autoprune.cli.spec_options import model_options
from autoprune.core.user_code import as_its_owner_runs_it

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from autoprune.cli.read_request import Request
    from autoprune.core.metrics import Metric
    from autoprune.search.setup.network_inspection import NetworkInspection


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune inspect resnet56 --input 1x32x32
  autoprune inspect torchvision:mobilenet_v2
  autoprune inspect mine.py:network --example mine.py:batch
  autoprune inspect studies/cifar10-resnet20
""",
)
@study_argument
@model_options
@shape_option
@example_option
@option("--classes", heading=Heading.NETWORK, type=int, help="Number of classes; default: the data's.")
@trust_option
@root_option
@json_option
def inspect(
    study: str | None,
    shape: str | None,
    example: str | None,
    classes: int | None,
    trust_code: bool,
    root: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what can be pruned in STUDY or in a model: groups and blocks, what is frozen and why, MACs and scores.

    STUDY may be a study, a recipe, or a model's name as --model takes it. If the study has a dense network, that one is
    inspected; otherwise no weights are needed. Nothing is trained or stored. One FLOP is one multiply–accumulate.
    """
    from autoprune.cli.read_request import layer_of, read_request
    from autoprune.study.folder import StudyFolder
    from autoprune.study.named_code import check_code_is_trusted

    values = layer_of(options)
    if study is not None and _is_model(study):
        values.setdefault("model", {})["source"] = study
        study = None
    request = read_request(study, root, values)
    check_code_is_trusted(StudyFolder(request.folder), request.spec, trust_code=trust_code)
    with as_its_owner_runs_it(request.spec.model.source):
        if example is not None:
            found = _inspect_on(request, example, shape, classes)
        else:
            found = _inspect(request, shape, classes, bool(values.get("model")))
    if as_json:
        emit(found.to_json())
    else:
        _print(found, request.spec.quality)


def _is_model(name: str) -> bool:
    from autoprune.core.builtin_names import MODELS

    return ":" in name or name in MODELS.names()


def _inspect(request: Request, text: str | None, classes: int | None, model_given: bool) -> NetworkInspection:
    """Inspect a network on inputs of the shape that was given, or else of the data's."""
    from autoprune.search.setup.from_spec import task_of
    from autoprune.search.setup.inspect_network import inspect_network, inspect_on_task
    from autoprune.study.folder import StudyFolder

    spec, folder = request.spec, StudyFolder(request.folder)
    if text is None and model_given and spec.model.source.startswith("torchvision:"):
        text, classes = "3x224x224", classes or 1000
    shape = parse_shape(text) if text else None
    task = None if shape is not None and classes is not None else task_of(spec)
    if task is not None and shape is None and not task.needs.input_shape:
        return inspect_on_task(spec, StudyFolder(request.folder), task)
    if task is not None and shape not in (None, task.needs.input_shape):
        classes, task = classes or (task.needs.num_classes or 0), None
    wanted = shape or (task.needs.input_shape if task else ())
    outputs = classes or ((task.needs.num_classes or 0) if task else 0)
    return inspect_network(spec, wanted, outputs, folder, task)


def _inspect_on(request: Request, example: str, shape: str | None, classes: int | None) -> NetworkInspection:
    """Inspect a network on inputs that the user's code gives."""
    from autoprune.errors import UsageError
    from autoprune.search.setup.inspect_network import inspect_on_example

    if shape is not None:
        raise UsageError("--input gives the shape of inputs, and --example the inputs themselves; give one of them")
    return inspect_on_example(request.spec, example, classes)


def _print(found: NetworkInspection, quality: Metric) -> None:
    from autoprune.loggers.safe_console import SafeConsole

    console = SafeConsole()
    _print_whole(console, found)
    _print_groups(console, found)
    _print_layers(console, found)
    _print_scores(console, found)
    if found.regularisation:
        from autoprune.report.content.notes import regularisation_notes

        console.print(*regularisation_notes(found.regularisation, quality), markup=False, highlight=False)
    for note in found.dense.uncounted:
        console.print(f"not counted: {note}", markup=False, highlight=False)


def _print_whole(console: Console, found: NetworkInspection) -> None:
    """Print what the whole network costs, and how far it can be brought down."""
    console.print(cost_line(found.model, found.described_inputs, found.dense), highlight=False)
    share = 100 * found.smallest["mflops"]
    console.print(f"cutting channels alone can bring it to {share:.1f} % of its MFLOPs", highlight=False)


def _print_groups(console: Console, found: NetworkInspection) -> None:
    """Print the groups and blocks that can go, and the groups that stay."""
    from rich.markup import escape
    from rich.table import Table

    from autoprune.search.setup.network_inspection import has_heads

    groups = Table("group", "size", "kind", "layers it runs through", title="can be pruned")
    for group in found.groups.cuttable:
        kind = "heads" if has_heads(group) else "residual stream" if group.is_residual else "inner"
        groups.add_row(escape(group.name), str(group.num_channels), kind, str(len(group.layers)))
    console.print(groups)
    if found.blocks:
        blocks = Table("block", "MFLOPs", "groups inside", title="can be dropped whole, with --depth")
        for block in found.blocks:
            blocks.add_row(escape(block.name), f"{found.mflops_of(block):.3f}", escape(", ".join(block.groups)))
        console.print(blocks)
    if found.groups.frozen:
        frozen = Table("group", "channels", "reason", title="frozen")
        for kept in found.groups.frozen:
            frozen.add_row(escape(kept.name), str(kept.num_channels), escape(kept.reason))
        console.print(frozen)


def _print_layers(console: Console, found: NetworkInspection) -> None:
    """Print the MFLOPs of every layer that has some."""
    from rich.markup import escape
    from rich.table import Table

    layers = Table("layer", "kind", "in", "out", "MFLOPs", "share", title="MFLOPs by layer")
    for layer in found.layers:
        mflops = layer.macs / 1e6
        layers.add_row(
            escape(layer.name),
            layer.kind,
            str(layer.inputs),
            str(layer.outputs),
            f"{mflops:.3f}",
            f"{100 * mflops / found.dense['mflops']:.1f} %",
        )
    console.print(layers)


def _print_scores(console: Console, found: NetworkInspection) -> None:
    """Print how each criterion's scores spread within every group; quantiles over all groups would hide that."""
    from rich.markup import escape
    from rich.table import Table

    trained = "" if found.trained else "; weights are untrained, so scores say little"
    scores = Table(
        "criterion", "group", "lowest", "25 %", "median", "75 %", "highest", title=f"scores, larger = keep{trained}"
    )
    for name, criterion in found.criteria.items():
        for group, quantiles in criterion.quantiles.items():
            scores.add_row(escape(name), escape(group), *(f"{value:.3g}" for value in quantiles))
        if not criterion.quantiles:
            scores.add_row(escape(name), escape(criterion.reason or "applies to no group"))
    console.print(scores)
