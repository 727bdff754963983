"""Options that several commands share, and the way from options to a layer of the spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from autoprune.cli.completing import complete_study
from autoprune.errors import SpecError, UsageError

if TYPE_CHECKING:
    from autoprune.core.metrics import Budget
    from autoprune.study.spec import StudySpec

_F = TypeVar("_F", bound=Callable[..., Any])
BUDGETS = {
    "mflops": "MFLOPs (one FLOP = one multiply–accumulate)",
    "mparams": "million parameters",
    "latency_ms": "milliseconds on this device",
    "size_mb": "MB of stored float32 weights",
    "nonzero_mflops": "MFLOPs with weights that are not zero; for masks",
    "nonzero_mparams": "million parameters that are not zero; for masks",
}

study_argument = click.argument("study", required=False, shell_complete=complete_study)
root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="Folder that holds the studies.",
)
storage_option = click.option(
    "--storage",
    envvar="AUTOPRUNE_STORAGE",
    metavar="URL",
    help="Optuna storage URL for the trials; default: SQLite in the study's folder.",
)


export_option = click.option(
    "--export",
    metavar="onnx,pt2|none",
    help="Further files: model.onnx, model.pt2. Default: model.onnx if the extra onnx is installed.",
)


def budget_options(command: _F) -> _F:
    """Add one ``--budget-…`` option for each cost."""
    for name, unit in reversed(BUDGETS.items()):
        option = f"--budget-{name.replace('_', '-')}"
        command = click.option(option, f"budget_{name}", metavar="N|P%", help=f"At most N {unit}, or P% of dense.")(
            command
        )
    return command


_PLAIN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("--trials", "trials", {"type": int, "help": "Trials the study shall reach in total."}),
    ("--sampler", "sampler", {"metavar": "auto|tpe|gp|nsga2|random", "help": "Who proposes policies."}),
    ("--objectives", "objectives", {"metavar": "A,B,…", "help": "Metrics to trade, e.g. accuracy,mflops."}),
    ("--seed", "seed", {"type": int, "help": "Seed of proposals, training and subsets."}),
    (
        "--model",
        "model.source",
        {"metavar": "NAME", "help": "resnet20/32/44/56, torchvision:NAME, pkg.mod:fn, file.py:fn."},
    ),
    ("--weights", "model.weights", {"metavar": "FILE", "help": "Trained weights: .safetensors, or a state dict."}),
    (
        "--data",
        "data.source",
        {"metavar": "NAME", "help": "digits, cifar10, imagefolder:PATH, pkg.mod:fn, file.py:fn."},
    ),
    ("--data-root", "data.root", {"metavar": "DIR", "help": "Where downloaded data lies."}),
    ("--importances", "space.importances", {"metavar": "A,B,…", "help": "Importance criteria to choose from."}),
    (
        "--patterns",
        "space.patterns",
        {"metavar": "A,B", "help": "What is removed: channel, weight, 2:4; channels first, then a mask."},
    ),
    ("--depth/--no-depth", "space.depth", {"default": None, "help": "Whether residual blocks may be dropped whole."}),
    (
        "--sensitivity/--no-sensitivity",
        "sensitivity.enabled",
        {"default": None, "help": "Whether it is measured what cutting each group alone does."},
    ),
    ("--keep", "space.keep", {"metavar": "GLOB,…", "help": "Layers whose channels all stay, by module path."}),
    ("--only", "space.only", {"metavar": "GLOB,…", "help": "Layers whose channels alone may go, by module path."}),
    (
        "--max-drop",
        "space.max_drop",
        {
            "metavar": "P%",
            "callback": lambda _ctx, _param, text: None if text is None else fraction("--max-drop", text),
            "help": "Add the threshold baseline: error that cutting one group alone may add, e.g. 1%.",
        },
    ),
    ("--max-sparsity", "space.max_sparsity", {"type": float, "help": "Largest fraction of a group that may go."}),
    ("--round-to", "space.round_to", {"type": int, "help": "Keep a multiple of this many channels."}),
    (
        "--stopping/--no-stopping",
        "stopping.enabled",
        {"default": None, "help": "Whether candidates that can no longer win are stopped early."},
    ),
    (
        "--keep-weights",
        "disk.keep_weights",
        {"metavar": "front|all|none", "help": "Whose fine-tuned weights are kept: the front's and baselines', or all."},
    ),
    ("--finetune-epochs", "finetune.epochs", {"type": float, "help": "Epochs of each candidate's fine-tune."}),
    (
        "--dense-epochs",
        "dense.epochs",
        {"type": int, "help": "Epochs of training the dense network, if it has no weights."},
    ),
    ("--device", "runtime.device", {"metavar": "auto|cpu|cuda|mps", "help": "Where networks run."}),
    ("--precision", "runtime.precision", {"metavar": "auto|fp32|bf16", "help": "Number format of training."}),
    ("--layout", "runtime.layout", {"metavar": "auto|channels_last|contiguous", "help": "Memory layout of images."}),
    ("--threads", "runtime.threads", {"type": int, "help": "CPU threads for training; 0 for all cores."}),
    (
        "--latency-runtime",
        "latency.runtime",
        {"metavar": "auto|torch|compile|onnxruntime|cuda", "help": "What runs networks while they are timed."},
    ),
    ("--latency-batch", "latency.batch", {"type": int, "help": "Images per timed forward pass."}),
    ("--latency-threads", "latency.threads", {"type": int, "help": "CPU threads while timing."}),
    (
        "--log",
        "logging.loggers",
        {"metavar": "A,B,…", "help": "Log trials to tensorboard, mlflow, pkg.mod:attr or file.py:attr; none: no more."},
    ),
)
_LISTS = ("objectives", "space.importances", "space.patterns", "space.keep", "space.only", "logging.loggers")

_OF_MODEL = (
    *("model.source", "model.weights", "data.source", "data.root"),
    *("space.importances", "space.keep", "space.only", "space.max_sparsity", "space.round_to"),
)


def spec_options(command: _F) -> _F:
    """Add the options that override a study's spec."""
    command = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override any other value of the spec, e.g. --set finetune.lr=0.02.",
    )(command)
    return _with(command, _PLAIN)


def transfer_options(command: _F) -> _F:
    """Add the options that say which network a policy is applied to."""
    wanted = ("model.source", "model.weights", "data.source", "data.root", "seed", "runtime.device")
    return _with(command, [entry for entry in _PLAIN if entry[1] in wanted])


def model_options(command: _F) -> _F:
    """Add the options that say which network and which data, and what may be pruned."""
    return _with(command, [entry for entry in _PLAIN if entry[1] in _OF_MODEL])


def _with(command: _F, entries: Sequence[tuple[str, str, dict[str, Any]]]) -> _F:
    for option, key, extra in reversed(entries):
        command = click.option(option, key.replace(".", "__"), **extra)(command)
    return command


def layer_of(options: Mapping[str, Any], assignments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values given on the command line, nested as in a ``study.toml``.

    A ``--budget-…`` option replaces the whole budget of the file, not one limit of it.

    Raises:
        SpecError: if an assignment is not KEY=VALUE.
    """
    values: dict[str, Any] = {}
    for key, value in options.items():
        if value is not None and not key.startswith("budget_"):
            dotted = key.replace("__", ".")
            _put(values, dotted, value.split(",") if dotted in _LISTS else value)
    limits = budget_values(options)
    if limits:
        values["budget"] = {name: limits.get(name, "none") for name in BUDGETS}
    faults = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if equals:
            _put(values, key.strip(), _toml_value(text.strip()))
        else:
            faults.append(f"--set {assignment}: expected KEY=VALUE, for example --set finetune.lr=0.02")
    if faults:
        raise SpecError("command line", faults)
    return values


def fraction(option: str, text: str) -> float:
    """Read ``1%`` or ``0.01``.

    Raises:
        UsageError: if it is neither.
    """
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageError(f"{option} {text!r} is neither a percentage nor a fraction; write for example 1% or 0.01")
    return value


def budget_values(options: Mapping[str, Any]) -> dict[str, str]:
    """Return metric → text for the ``--budget-…`` options that were given."""
    return {name: options[f"budget_{name}"] for name in BUDGETS if options.get(f"budget_{name}") is not None}


def budget_text(limits: Mapping[str, str]) -> str:
    """Return the options that ask for limits, each behind a space.

    >>> budget_text({"mflops": "40%", "latency_ms": "2.5"})
    ' --budget-mflops 40% --budget-latency-ms 2.5'
    """
    return "".join(f" --budget-{name.replace('_', '-')} {text}" for name, text in limits.items())


def asked_budget(options: Mapping[str, Any], dense: Any) -> Budget | None:
    """Return the absolute budget asked for on the command line, or ``None``; one above dense is allowed here.

    Raises:
        BudgetError: if a limit is malformed, or on what the study does not measure.
    """
    from autoprune.core.metrics import Budget

    limits = budget_values(options)
    return Budget.parse(limits).in_units(dense) if limits else None


@dataclass(frozen=True)
class Request:
    """Hold what a command line asks for.

    Attributes:
        spec: every value decided, but for the ``auto`` of the runtime.
        folder: the study's folder.
        recipe: values of the study's ``study.toml``.
    """

    spec: StudySpec
    folder: Path
    recipe: Mapping[str, Any]


def read_request(study: str | None, root: Path, values: Mapping[str, Any]) -> Request:
    """Return the spec of a study and where it lies: the command line over its file over the defaults.

    Once a study has begun, what it began with stands in for the defaults and for options that are not
    repeated; what was edited in its ``study.toml`` since then counts.

    Raises:
        UnknownNameError: if there is no such study, and neither ``--model`` nor ``--data`` begins a new one.
        SpecError: listing every fault.
    """
    from autoprune.study.accepted_toml import read_accepted
    from autoprune.study.find_study import find_study
    from autoprune.study.folder import StudyFolder
    from autoprune.study.spec_toml import Layer, parse_spec, read_study_toml

    begins = bool(values.get("model") or values.get("data"))
    path, written = find_study(study, root, allow_new=begins)
    folder = StudyFolder(path)
    layers = [Layer(str(folder.study_toml), written)]
    accepted = read_accepted(folder) if folder.resolved.exists() else None
    if accepted is not None:
        began = Layer(str(folder.resolved), read_study_toml(folder.resolved))
        layers = [began, Layer(str(folder.study_toml), _edited(accepted, written))]
    return Request(parse_spec([*layers, Layer("command line", values)]), path, written)


def _edited(accepted: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that were edited since a run accepted them; one taken out counts for nothing."""
    changed: dict[str, Any] = {}
    for key, value in written.items():
        if isinstance(value, Mapping) and isinstance(accepted.get(key), Mapping):
            inner = _edited(accepted[key], value)
            changed |= {key: inner} if inner else {}
        elif accepted.get(key) != value:
            changed[key] = value
    return changed


def _put(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SpecError("command line", [f"{dotted}: {section} is a value, not a section"])
        values = inner
    values[name] = value


def _toml_value(text: str) -> Any:
    """Return a TOML value; what is not TOML is a string, so that quotes may be left out."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
