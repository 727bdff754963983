"""The arguments and options that several commands share: the study, where it is stored, what is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from autoprune.cli.completed_values import complete_study
from autoprune.cli.headings import Heading, option
from autoprune.cli.output import json_option
from autoprune.cli.secrets import STORAGE_VARIABLE
from autoprune.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])

study_argument = click.argument("study", required=False, shell_complete=complete_study)
root_option = option(
    "--root",
    heading=Heading.OUTPUT,
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="Folder that holds the studies.",
)
storage_option = option(
    "--storage",
    heading=Heading.OUTPUT,
    envvar=STORAGE_VARIABLE,
    metavar="URL",
    help="Optuna storage URL for the trials; default: $AUTOPRUNE_STORAGE, or SQLite in the study's folder. Others on "
    "the machine can read a password that is typed here, not one in the variable.",
)
export_option = option(
    "--export",
    heading=Heading.OUTPUT,
    metavar="onnx,openvino,pt2|none",
    help="Further files: model.onnx, OpenVINO's model.xml and model.bin, model.pt2, or what a plug-in of this name "
    "writes. Default: model.onnx if the extra onnx is installed.",
)
trust_option = option(
    "--trust-code",
    heading=Heading.NETWORK,
    is_flag=True,
    help="Run code that a file from elsewhere names, such as net.py:build in an imported study or a picked folder; "
    "needed once for an imported study, never for one that was made here.",
)
shape_option = option(
    "--input",
    "shape",
    heading=Heading.NETWORK,
    metavar="CxHxW",
    help="Input shape; default: the data's, or 3x224x224 for torchvision.",
)
example_option = option(
    "--example",
    heading=Heading.NETWORK,
    metavar="SOURCE",
    help="One batch of inputs of any structure, or a function that returns one: mine.py:batch. A tensor, a tuple of "
    "arguments, or a dictionary of them by name.",
)


def stored_study_options(command: _F) -> _F:
    """Add ``--root``, ``--storage`` and ``--json``: where studies are stored, and how the result is printed."""
    return root_option(storage_option(json_option(command)))


def fraction(flag: str, text: str) -> float:
    """Read ``1%`` or ``0.01``.

    Raises:
        UsageError: if it is neither.

    >>> fraction("--max-drop", "1%")
    0.01
    """
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{flag} {text!r} is neither a percentage nor a fraction; write for example 1% or 0.01")
    return value


def parse_shape(text: str) -> tuple[int, ...]:
    """Return the shape of one example: of an image, CxHxW; of a row of features, F; of a sequence of rows, TxF.

    Raises:
        UsageError: if the text has another form.

    >>> parse_shape("3x224x224")
    (3, 224, 224)
    """
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise UsageError(
            f"--input {text!r} is not of the form CxHxW, F or TxF; write for example 3x224x224 for images, "
            "30 for rows of features, 16x8 for sequences"
        )
    return shape
