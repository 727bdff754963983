"""``autoprune profile``: what a network costs, layer by layer and in several runtimes."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import click

from autoprune.cli.headings import HeadedCommand, Heading, option
from autoprune.cli.output import cost_line, echo, emit, json_option
from autoprune.cli.shared_options import example_option, parse_shape, shape_option, trust_option
from autoprune.cli.spec_options import DATA_WORDS
from autoprune.core.user_code import as_its_owner_runs_it

if TYPE_CHECKING:
    from rich.console import Console

    from autoprune.export.architecture import Architecture
    from autoprune.models.calling.inputs import Inputs
    from autoprune.search.setup.profile_network import NetworkProfile

SORTS = {"order": None, "time": "seconds", "mflops": "macs", "mparams": "params"}  # attributes of a layer


@click.command(
    cls=HeadedCommand,
    epilog="""\b
Examples:
  autoprune profile resnet56 --input 3x32x32 --classes 10
  autoprune profile torchvision:mobilenet_v2 --batch 8 --sort time
  autoprune profile studies/digits-resnet56/picked/21 --latency-runtime torch,compile,onnxruntime
  autoprune profile net.py:build --data imagefolder:pictures --json
  autoprune profile mine.py:network --example mine.py:batch
""",
)
@click.argument("model")
@shape_option
@example_option
@option(
    "--classes",
    "--num-classes",
    "classes",
    heading=Heading.NETWORK,
    type=click.IntRange(1),
    help="Number of outputs; default: the data's.",
)
@option(
    "--data",
    heading=Heading.NETWORK,
    metavar="NAME",
    help=f"Data whose shape and classes are taken; default: digits. {DATA_WORDS}.",
)
@option(
    "--batch",
    "--latency-batch",
    "batch",
    heading=Heading.LATENCY,
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Examples per timed forward pass; inputs of a structure in which they cannot be told apart stay as they are.",
)
@option(
    "--latency-runtime",
    "runtimes",
    heading=Heading.LATENCY,
    metavar="A,B,…",
    help="Any of torch, compile, onnxruntime, openvino, cuda; default: torch and onnxruntime, or cuda on a GPU.",
)
@option(
    "--latency-threads",
    "threads",
    heading=Heading.LATENCY,
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="CPU threads while timing.",
)
@option(
    "--device",
    heading=Heading.RUNTIME,
    default="auto",
    metavar="auto|cpu|cuda|mps",
    help="Device that the network runs on.",
)
@option(
    "--layout",
    heading=Heading.RUNTIME,
    type=click.Choice(["contiguous", "channels_last"]),
    default="contiguous",
    show_default=True,
    help="Memory layout of images.",
)
@option(
    "--sort",
    heading=Heading.SHOWN,
    type=click.Choice(list(SORTS)),
    default="order",
    show_default=True,
    help="How layers are listed.",
)
@trust_option
@json_option
def profile(model: str, as_json: bool, **how: Any) -> None:
    """Show what MODEL costs: MACs, parameters and size of every layer, and how long it takes.

    MODEL is a model's name as --model takes it, or a folder that `autoprune pick` wrote. Nothing is trained or stored,
    and no weights are needed. Times by layer are PyTorch's eager mode with a clock at every layer; the latency of the
    whole network is timed without these clocks, in each runtime. One FLOP is one multiply–accumulate.
    """
    from autoprune.cost.timing_plan import TimingPlan
    from autoprune.search.setup.profile_network import open_network, profile_network
    from autoprune.search.setup.runtime_for_inputs import runtime_for_inputs
    from autoprune.training.device.resolve_runtime import resolve_runtime

    runtimes = _names(how["runtimes"])
    runtime = resolve_runtime(how["device"], "fp32", how["layout"], how["threads"])
    plan = TimingPlan(batch=how["batch"], threads=how["threads"], blocks=11)
    with as_its_owner_runs_it(model):
        what, inputs = _given(model, how["shape"], how["classes"], how["data"], how["example"])
        network, what = open_network(model, what, inputs=inputs, trust_code=how["trust_code"])
        named = {"layout"} if how["layout"] != "auto" else set()
        runtime = runtime_for_inputs(network, inputs or what.example(2), runtime, named, _say)
        found = profile_network(network, what, runtime, plan, runtimes, inputs)
    if attribute := SORTS[how["sort"]]:
        found = replace(found, layers=tuple(sorted(found.layers, key=attrgetter(attribute), reverse=True)))
    if as_json:
        emit({**found.to_json(), "model": model})
    else:
        _print(model, found)


def _say(message: str) -> None:
    echo(message, err=True)


def _given(
    model: str, shape: str | None, classes: int | None, data: str | None, example: str | None
) -> tuple[Architecture | None, Inputs | None]:
    """Return how a model by name is built, and a batch if one was given.

    Raises:
        UsageError: if a batch is given beside a shape or data.
    """
    from autoprune.errors import UsageError
    from autoprune.export.architecture import Architecture
    from autoprune.search.setup.profile_network import batch_of, is_picked

    if example is None:
        return _by_shape(model, shape, classes, data)
    if shape or data:
        raise UsageError("--example gives the inputs themselves, and --input and --data their shape; give one of them")
    inputs = batch_of(example)
    return None if is_picked(model) else Architecture.of(model, inputs, classes or 0), inputs


def _by_shape(
    model: str, text: str | None, classes: int | None, data: str | None
) -> tuple[Architecture | None, Inputs | None]:
    """Return how a model by name is built, and a batch of data whose inputs are not one tensor.

    If the name is a folder, which holds that itself, there is neither.

    Raises:
        UsageError: if a shape is given for a picked network's folder, or the shape has another form.
        SpecError: if nothing can have this name.
    """
    from pathlib import Path

    from autoprune.errors import UsageError
    from autoprune.export.architecture import Architecture
    from autoprune.search.setup.from_spec import task_of
    from autoprune.search.setup.profile_network import of_task
    from autoprune.study.spec_toml import Layer, parse_spec

    if Path(model).is_dir():
        if text or classes or data:
            raise UsageError("a picked network knows its input; leave out --input, --classes and --data")
        return None, None
    values: dict[str, object] = {"model": {"source": model}, **({"data": {"source": data}} if data else {})}
    spec = parse_spec([Layer("command line", values)])
    if text is None and data is None and model.startswith("torchvision:"):
        text, classes = "3x224x224", classes or 1000
    shape = parse_shape(text) if text else None
    if shape is None or classes is None:
        task = task_of(spec)
        if shape is None and not task.needs.input_shape:
            return of_task(model, task)
        shape, classes = shape or task.needs.input_shape, classes or (task.needs.num_classes or 0)
    return Architecture(model, classes, shape), None


def _names(text: str | None) -> list[str] | None:
    """Return the runtimes that were named.

    Raises:
        UnknownNameError: if one does not exist.
    """
    from autoprune.errors import UnknownNameError
    from autoprune.export.timing_runtimes import WORDS

    names = None if text is None else [name.strip() for name in text.split(",")]
    for name in names or ():
        if name not in WORDS:
            raise UnknownNameError("latency runtime", name, WORDS)
    return names


def _print(model: str, found: NetworkProfile) -> None:
    from autoprune.loggers.safe_console import SafeConsole

    console = SafeConsole()
    _print_whole(console, model, found)
    _print_layers(console, found)
    for one in found.uncounted:
        line = f"not counted: {one.operation}, {one.calls} calls, {one.outputs} numbers out"
        console.print(line, markup=False, highlight=False)


def _print_whole(console: Console, model: str, found: NetworkProfile) -> None:
    """Print what the whole network costs, and its latency in each runtime."""
    console.print(cost_line(model, found.described_inputs, found.whole), highlight=False)
    threads = f"{found.plan.threads} thread{'' if found.plan.threads == 1 else 's'}"
    batch = f"batch {found.batch}" if found.batch else "one batch as it is, whose examples cannot be told apart"
    where = f"{batch}, {threads}, {found.runtime['layout']}, {found.runtime['device_name']}"
    for name, timed in found.latency.items():
        shown = f"not timed: {timed.failed}" if timed.failed else f"{timed.ms:.3f} ± {timed.stderr_ms:.3f} ms"
        console.print(f"latency in {name}: {shown}", markup=False, highlight=False)
    console.print(f"timed with {where}", markup=False, highlight=False)


def _print_layers(console: Console, found: NetworkProfile) -> None:
    """Print what each layer costs, and its share of the eager time."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("layer", "kind", "channels", "MFLOPs", "M params", "MB", "eager ms", "share", title="by layer")
    table.columns[0].overflow = table.columns[1].overflow = "fold"
    table.columns[0].min_width = 14
    for column in table.columns[2:]:
        column.justify = "right"
    for layer in found.layers:
        table.add_row(
            escape(layer.name or "(itself)"),
            escape(layer.kind),
            f"{layer.inputs}→{layer.outputs}" if layer.outputs else "",
            *(f"{value / 1e6:.3f}" if value else "" for value in (layer.macs, layer.params, layer.stored_bytes)),
            f"{1e3 * layer.seconds:.3f}",
            f"{100 * layer.seconds / found.eager_seconds:.1f} %",
        )
    console.print(table)
    console.print(
        f"the eager times add up to {1e3 * found.eager_seconds:.3f} ms, the clocks between the layers included",
        highlight=False,
    )
