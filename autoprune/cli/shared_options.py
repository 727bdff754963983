"""The arguments and options that several commands share: the study, where it is stored, what is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from autoprune.cli.completed_values import complete_study
from autoprune.cli.headings import Heading, option
from autoprune.cli.output import json_option
from autoprune.cli.secrets import ARTIFACTS_VARIABLE, STORAGE_VARIABLE
from autoprune.core.preference import COST_OF
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
artifacts_option = option(
    "--artifacts",
    heading=Heading.OUTPUT,
    envvar=ARTIFACTS_VARIABLE,
    metavar="PLACE",
    help="Where machines that see no common folder fetch what one of them has prepared: a folder that all of them see, "
    "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; default: $AUTOPRUNE_ARTIFACTS, or nowhere.",
)
export_option = option(
    "--export",
    heading=Heading.OUTPUT,
    metavar="onnx,onnx-int8,openvino,pt2|none",
    help="Further files: model.onnx, model.int8.onnx, OpenVINO's model.xml and model.bin, model.pt2, or what a plug-in "
    "of this name writes. Default: model.onnx.",
)
_int8_option = option(
    "--int8",
    heading=Heading.OUTPUT,
    is_flag=True,
    help="Write model.int8.onnx too: quantised, calibrated on training examples, scored and timed beside float32.",
)
_int8_drop_option = option(
    "--int8-max-drop",
    heading=Heading.OUTPUT,
    metavar="P%",
    help="How much worse int8 may be than float32: points of accuracy or another percentage, of other metrics a share "
    "of the score. Layers stay in float32 until that holds. Default: 1%, or the study's pick.int8_max_drop.",
)
trust_option = option(
    "--trust-code",
    heading=Heading.NETWORK,
    is_flag=True,
    help="Run code that a file from elsewhere names, such as net.py:build in an imported study or a picked folder; "
    "needed once for an imported study, never for one that was made here.",
)
prefer_option = option(
    "--prefer",
    heading=Heading.CHOICE,
    type=click.Choice(list(COST_OF)),
    help="Which of several networks is the best if their quality is the same within one standard error: the fastest, "
    "the smallest, or (accuracy) the one with the lowest validation loss. Default: the study's pick.prefer.",
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


def int8_options(command: _F) -> _F:
    """Add ``--int8`` and ``--int8-max-drop``: whether and how well a network is written in int8."""
    return _int8_option(_int8_drop_option(command))


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
