"""The options that override a value of a study's spec, each under its heading.

What a name may be is derived from the registries, so that help never leaves one out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from autoprune.analysis.quality_limits import fraction
from autoprune.cli.headings import Heading, option
from autoprune.core.builtin_names import DATA, LOGGERS, MODELS, SAMPLERS
from autoprune.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])
_YOURS = "pkg.mod:fn, file.py:fn"
MODEL_WORDS = f"{', '.join(MODELS.builtins)}, torchvision:NAME, {_YOURS}"
DATA_WORDS = f"{', '.join(DATA.builtins)}, imagefolder:PATH, audiofolder:PATH, ratings:FILE.csv, {_YOURS}"


@dataclass(frozen=True)
class SpecOption:
    """An option that overrides one value of a study's spec.

    Attributes:
        flag: as it is typed; ``--depth/--no-depth`` for a switch.
        key: of the value in the spec, dotted.
        heading: where help lists it.
        help: a sentence.
        metavar: what stands for the value in help; empty for the type's own word.
        type: of the value.
        is_list: whether the value is a list, separated by commas or given one by one.
    """

    flag: str
    key: str
    heading: Heading
    help: str
    metavar: str = ""
    type: type[int] | type[float] | type[str] = str
    is_list: bool = False

    def add_to(self, command: _F) -> _F:
        """Add the option to a command."""
        extra: dict[str, Any] = {"heading": self.heading, "help": self.help}
        if "/" in self.flag:
            extra["default"] = None  # not given: the spec's own value
        else:
            extra |= {"type": self.type, "metavar": self.metavar or None}
        if self.is_list:
            extra |= {"multiple": True, "callback": _joined}
        elif self.key in _READERS:
            extra["callback"] = _READERS[self.key]
        return option(self.flag, self.key.replace(".", "__"), **extra)(command)


def _joined(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> str | None:
    """Return the parts of a list that was given in one option or in several of the same name."""
    return ",".join(given) if given else None


def _read_fraction(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    return None if text is None else fraction("--max-drop", text)


def _read_threads(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Return a number of threads; 0 for ``auto``.

    Raises:
        UsageError: if it is neither.
    """
    if text is None:
        return None
    word = text.strip().lower()
    if word != "auto" and not word.isdecimal():
        raise UsageError(f"--threads {text!r} is neither a number nor auto; write for example --threads 2")
    return 0 if word == "auto" else int(word)


def _read_multiple(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text  # what is neither is refused by the spec


_READERS = {"space.max_drop": _read_fraction, "space.round_to": _read_multiple, "runtime.threads": _read_threads}


_NETWORK = (
    SpecOption("--model", "model.source", Heading.NETWORK, f"The network: {MODEL_WORDS}.", "NAME"),
    SpecOption(
        "--weights",
        "model.weights",
        Heading.NETWORK,
        "Trained weights: .safetensors or a state dict; for torchvision models also a name such as DEFAULT.",
        "FILE",
    ),
    SpecOption("--data", "data.source", Heading.NETWORK, f"The data: {DATA_WORDS}.", "NAME"),
    SpecOption("--data-root", "data.root", Heading.NETWORK, "Folder for downloaded data.", "DIR"),
)
_SPACE = (
    SpecOption(
        "--importances",
        "space.importances",
        Heading.SPACE,
        "Importance criteria to choose from.",
        "A,B,…",
        is_list=True,
    ),
    SpecOption(
        "--keep", "space.keep", Heading.SPACE, "Layers whose channels all stay, by module path.", "GLOB,…", is_list=True
    ),
    SpecOption(
        "--only",
        "space.only",
        Heading.SPACE,
        "The only layers whose channels may go, by module path.",
        "GLOB,…",
        is_list=True,
    ),
    SpecOption(
        "--max-sparsity", "space.max_sparsity", Heading.SPACE, "Largest fraction of a group that may go.", type=float
    ),
    SpecOption("--round-to", "space.round_to", Heading.SPACE, "Keep a multiple of this many channels.", "N|auto"),
)
_MORE_SPACE = (
    SpecOption(
        "--patterns",
        "space.patterns",
        Heading.SPACE,
        "What is removed: channel, weight, 2:4; channels first, then a mask.",
        "A,B",
        is_list=True,
    ),
    SpecOption("--depth/--no-depth", "space.depth", Heading.SPACE, "Whether residual blocks may be dropped whole."),
    SpecOption(
        "--max-drop",
        "space.max_drop",
        Heading.SPACE,
        "Add the threshold baseline: error that cutting one group alone may add, e.g. 1%.",
        "P%",
    ),
)
_LOOP = (
    SpecOption(
        "--metric",
        "metrics",
        Heading.NETWORK,
        "What --evaluate gives, as NAME, NAME:GOAL or NAME:GOAL:UNIT, e.g. map, lpips:min; the first of several leads.",
        "A,B,…",
        is_list=True,
    ),
    SpecOption(
        "--finetune",
        "loop.finetune",
        Heading.TRAINING,
        "Your own training: fn(network, steps, seed, on_step), in place.",
        _YOURS,
    ),
    SpecOption(
        "--evaluate",
        "loop.evaluate",
        Heading.TRAINING,
        "Your own judgement: fn(network, split) -> value or (value, standard error, examples).",
        _YOURS,
    ),
    SpecOption(
        "--example",
        "loop.example",
        Heading.NETWORK,
        "A batch that the network is called with; with --finetune and --evaluate no data is needed.",
        "pkg.mod:batch, file.py:batch",
    ),
)
_TRAINING = (
    SpecOption(
        "--dense-epochs",
        "dense.epochs",
        Heading.TRAINING,
        "Epochs of training the dense network if it has no --weights; 0 if the model comes trained.",
        type=int,
    ),
    SpecOption(
        "--finetune-epochs",
        "finetune.epochs",
        Heading.TRAINING,
        "Epochs of each candidate's short fine-tune.",
        type=float,
    ),
    SpecOption(
        "--stopping/--no-stopping",
        "stopping.enabled",
        Heading.TRAINING,
        "Whether candidates that can no longer win are stopped early.",
    ),
)
_SEED = SpecOption("--seed", "seed", Heading.SEARCH, "Seed of proposals, training and subsets.", type=int)
_SEARCH = (
    SpecOption("--trials", "trials", Heading.SEARCH, "Number of trials the study reaches in total.", type=int),
    SpecOption(
        "--sampler",
        "sampler",
        Heading.SEARCH,
        "What proposes policies; auto: guided, or tpe where masks are searched.",
        "|".join(SAMPLERS),
    ),
    SpecOption(
        "--objectives",
        "objectives",
        Heading.SEARCH,
        "Metrics to trade, e.g. accuracy,mflops.",
        "A,B,…",
        is_list=True,
    ),
    _SEED,
    SpecOption(
        "--sensitivity/--no-sensitivity",
        "sensitivity.enabled",
        Heading.SEARCH,
        "Whether to measure first what cutting each group alone does.",
    ),
    SpecOption(
        "--screening/--no-screening",
        "screening.enabled",
        Heading.SEARCH,
        "Whether hundreds of networks are cut, compensated and looked at without training first.",
    ),
)
_LATENCY = (
    SpecOption(
        "--latency-runtime",
        "latency.runtime",
        Heading.LATENCY,
        "What runs the networks that are timed.",
        "auto|torch|compile|onnxruntime|openvino|cuda",
    ),
    SpecOption(
        "--latency-format",
        "latency.format",
        Heading.LATENCY,
        "In which numbers networks are timed; int8 needs onnxruntime.",
        metavar="auto|fp32|int8",
    ),
    SpecOption("--latency-batch", "latency.batch", Heading.LATENCY, "Examples per timed forward pass.", type=int),
    SpecOption(
        "--latency-command",
        "latency.command",
        Heading.LATENCY,
        "What times on another machine, in ONNX Runtime, e.g. 'ssh pi autoprune time -'.",
        "COMMAND",
    ),
    SpecOption("--latency-threads", "latency.threads", Heading.LATENCY, "CPU threads while timing.", type=int),
)
_DEVICE = SpecOption("--device", "runtime.device", Heading.RUNTIME, "Device that networks run on.", "auto|cpu|cuda|mps")
_RUNTIME = (
    _DEVICE,
    SpecOption("--precision", "runtime.precision", Heading.RUNTIME, "Number format of training.", "auto|fp32|bf16"),
    SpecOption(
        "--layout",
        "runtime.layout",
        Heading.RUNTIME,
        "Memory layout of images; auto goes by their size, measured by the clock.",
        "auto|measured|channels_last|contiguous",
    ),
    SpecOption(
        "--threads",
        "runtime.threads",
        Heading.RUNTIME,
        "CPU threads for training; auto, or 0: as many as OMP_NUM_THREADS says, or all cores that others leave free.",
        "N|auto",
    ),
)
_OUTPUT = (
    SpecOption(
        "--keep-weights",
        "disk.keep_weights",
        Heading.OUTPUT,
        "Which trials' fine-tuned weights are kept; front: those of the front, the best few and the baselines.",
        "front|all|none",
    ),
    SpecOption(
        "--log",
        "logging.loggers",
        Heading.OUTPUT,
        f"Also log trials to {', '.join(LOGGERS.builtins)}, pkg.mod:attr or file.py:attr; none: stop logging.",
        "A,B,…",
        is_list=True,
    ),
)
SPEC_OPTIONS = (*_NETWORK, *_LOOP, *_SPACE, *_MORE_SPACE, *_TRAINING, *_SEARCH, *_LATENCY, *_RUNTIME, *_OUTPUT)


def spec_options(command: _F) -> _F:
    """Add the options that override a study's spec."""
    words = "Override any other value of the spec, e.g. --set finetune.lr=0.02."
    command = option("--set", "assignments", heading=Heading.SEARCH, multiple=True, metavar="KEY=VALUE", help=words)(
        command
    )
    return _add(command, SPEC_OPTIONS)


def target_options(command: _F) -> _F:
    """Add the options that name the network a policy is applied to."""
    return _add(command, (*_NETWORK, _SEED, _DEVICE))


def model_options(command: _F) -> _F:
    """Add the options that name a network and its data, and what may be pruned."""
    return _add(command, (*_NETWORK, *_SPACE))


def _add(command: _F, options: Iterable[SpecOption]) -> _F:
    for each in reversed(tuple(options)):
        command = each.add_to(command)
    return command
