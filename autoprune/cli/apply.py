"""``autoprune apply``: prune a network by the policy of a picked one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoprune.analysis.quality_limits import fraction
from autoprune.cli.conclude import conclude
from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import json_option
from autoprune.cli.shared_options import (
    example_option,
    export_option,
    int8_options,
    parse_shape,
    trust_option,
)
from autoprune.cli.spec_options import target_options
from autoprune.core.user_code import as_its_owner_runs_it

if TYPE_CHECKING:
    from autoprune.core.export_formats import Wanted
    from autoprune.export.card import Card
    from autoprune.export.stored_policy import StoredPolicy
    from autoprune.loggers.console import PlainDisplay
    from autoprune.pick.apply_target import TargetNetwork
    from autoprune.study.spec import StudySpec


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune apply studies/digits-resnet56/picked/28/policy.json --model resnet56 --weights mine.safetensors
  autoprune apply policy.json --model mine.py:network --example mine.py:batch
  autoprune apply policy.json --model net.py:build --data imagefolder:photos -o pruned
  autoprune apply policy.json --model torchvision:resnet18 --weights DEFAULT --input 3x224x224 --classes 1000
""",
)
@click.argument("policy", type=click.Path(path_type=Path))
@target_options
@option(
    "--input",
    "shape",
    heading=Heading.NETWORK,
    metavar="CxHxW",
    help="Input shape; default: the data's, or else the policy's.",
)
@example_option
@option(
    "--classes",
    heading=Heading.NETWORK,
    type=int,
    help="Number of classes; default: the data's, or else the policy's.",
)
@option(
    "-o",
    "--output",
    heading=Heading.OUTPUT,
    type=click.Path(path_type=Path),
    default=Path("applied"),
    show_default=True,
    help="Folder to write.",
)
@export_option
@int8_options
@option(
    "--no-compensation",
    heading=Heading.SPACE,
    is_flag=True,
    help="Leave the weights that stay as they are, and measure batch norm anew alone.",
)
@option("--force", heading=Heading.OUTPUT, is_flag=True, help="Replace the folder if it exists.")
@trust_option
@json_option
def apply(
    policy: Path,
    shape: str | None,
    example: str | None,
    classes: int | None,
    output: Path,
    export: str | None,
    int8: bool,
    int8_max_drop: str | None,
    no_compensation: bool,
    force: bool,
    trust_code: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Prune a network by POLICY, the policy.json of a picked folder, and write a folder like a picked one.

    The network needs the groups that the policy names. Each loses the same share of its own channels, those that the
    policy's criterion scores lowest in it. Nothing is trained; with --data, the weights that stay are refitted to the
    dense network's outputs, and the network is scored on validation. Criteria that look at data, and --int8, need
    --data. The exit code is 1 if the policy does not fit, or if an export that you named fails. One FLOP is one
    multiply–accumulate.
    """
    from autoprune.cli.read_request import layer_of
    from autoprune.core.export_formats import Int8Limit, wanted_formats
    from autoprune.study.spec_toml import Layer, parse_spec

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limit = Int8Limit() if int8_max_drop is None else Int8Limit(fraction("--int8-max-drop", int8_max_drop))
    wanted = wanted_formats(export or "auto", int8=int8, limit=limit)
    values = layer_of(options)
    if no_compensation:
        values["finetune"] = {"compensation_images": 0}
    spec = parse_spec([Layer("command line", values)])
    size = parse_shape(shape) if shape else ()
    has_data = bool(values.get("data"))
    with as_its_owner_runs_it(spec.model.source):
        subject = _subject(policy, spec, size, classes or 0, example or "", has_data, output, force)
        card = _apply(*subject, output, wanted, force=force, trust_code=trust_code)
    conclude(card, output, as_json)


def _subject(
    policy: Path,
    spec: StudySpec,
    shape: tuple[int, ...],
    classes: int,
    example: str,
    has_data: bool,
    target: Path,
    force: bool,
) -> tuple[StoredPolicy, TargetNetwork]:
    """Return the policy, and the network that it is to be applied to; the folder is looked at before."""
    from autoprune.export.publish import check_target
    from autoprune.pick.apply_target import read_policy, target_network

    check_target(target, force)
    stored = read_policy(policy)
    return stored, target_network(spec, stored, shape, classes, has_data, _display().say, example)


def _apply(
    stored: StoredPolicy, subject: TargetNetwork, target: Path, wanted: Wanted, *, force: bool, trust_code: bool
) -> Card:
    from autoprune.pick.apply_policy import apply_policy

    return apply_policy(stored, subject, target, wanted, _display().say, force=force, trust_code=trust_code)


def _display() -> PlainDisplay:
    from autoprune.loggers.console import PlainDisplay
    from autoprune.loggers.safe_console import SafeConsole

    return PlainDisplay(SafeConsole(stderr=True))
