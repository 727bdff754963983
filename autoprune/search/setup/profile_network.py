"""What a network costs, layer by layer and in several runtimes: the door behind ``autoprune profile``.

Nothing is trained and nothing stored. Time does not depend on the weights, so none are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from autoprune.core.builtin_names import MODELS
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.core.versions import versions
from autoprune.cost.cost_model import measure_network
from autoprune.cost.latency import cpu_threads, time_alone
from autoprune.cost.layer_profile import LayerProfile, Uncounted, layer_to_json, profile_layers, uncounted_operations
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import AutopruneError, UnknownNameError, UsageError
from autoprune.export.architecture import Architecture, read_architecture
from autoprune.export.build_dense import build_dense
from autoprune.export.onnx import missing_packages
from autoprune.export.picked_files import WEIGHTS
from autoprune.export.saved_network import load
from autoprune.export.timing_runtimes import ONNX, check_engine, engine_of
from autoprune.models.build import build_for_inputs
from autoprune.models.calling.inputs import Inputs
from autoprune.models.example_inputs import example_inputs
from autoprune.tasks.task import DataTask
from autoprune.training.device.runtime import Runtime


def open_network(
    name: str, given: Architecture | None, *, inputs: Inputs | None = None, trust_code: bool = False
) -> tuple[nn.Module, Architecture]:
    """Return a network in eval mode on the CPU, and what it is: built by name, or loaded from a picked folder.

    Args:
        name: a folder that ``autoprune pick`` wrote, or a model's name as ``--model`` takes it.
        given: inputs and outputs of a model by name; a picked folder knows its own.
        inputs: a batch, if it was given; ``given`` is then made from it.
        trust_code: whether code that a picked folder names is run; a model that is named here is the user's own.

    Raises:
        UsageError: if the name is a folder that holds no picked network.
        UnknownNameError: if no model has this name.
        ModelError: if the network cannot be built or loaded.
        UntrustedCodeError: if a picked folder names code, and that is not allowed.
    """
    if is_picked(name):
        return load(name, trust_code=trust_code), read_architecture(Path(name)).dense
    if Path(name).is_dir():
        raise UsageError(
            f"{name!r} is a folder without {WEIGHTS}; expected a model's name, or a folder that `autoprune pick` wrote"
        )
    if given is None:
        raise UnknownNameError("model", name, MODELS.names(), "Or a folder that `autoprune pick` wrote.")
    if inputs is None:
        return build_dense(given, seed=0).eval(), given
    classes = given.num_classes or None
    return build_for_inputs(given.source, inputs, classes, seed=0, offers=given.offers).eval(), given


def batch_of(example: str) -> Inputs:
    """Return the batch of inputs that the user's code gives: ``mine.py:batch``.

    Raises:
        UnknownNameError, UsageError: if there is nothing of that name.
        ModelError: if it fails, or holds no tensor.
    """
    return example_inputs(example)


def of_task(model: str, task: DataTask) -> tuple[Architecture, Inputs]:
    """Return how a network is built that is called as a task says, and what it is called with for two examples.

    Raises:
        UnknownNameError, ModelError: if it cannot be built.
    """
    needs = task.needs
    network = build_for_inputs(model, task.example, needs.num_classes, seed=0, offers=needs.offers)
    inputs = task.example(network).of_size(2)
    return Architecture.of(model, inputs, needs.num_classes or 0, needs.offers), inputs


def is_picked(name: str) -> bool:
    """Return whether a name is the path of a picked network's folder."""
    return (Path(name) / WEIGHTS).is_file()


def usual_engines(device: str) -> list[str]:
    """Return the latency runtimes that take no minute to make ready and that this machine has."""
    if device != "cpu":
        return ["torch", "cuda"] if device == "cuda" else ["torch"]
    return ["torch"] if missing_packages() else ["torch", ONNX]


@dataclass(frozen=True)
class Latency:
    """How long a network takes in one runtime.

    Attributes:
        ms: milliseconds per call, median over blocks; ``None`` if it could not be timed.
        stderr_ms: standard error of that median; ``None`` if it could not be timed.
        failed: why it could not be timed, empty if it was.
    """

    ms: float | None = None
    stderr_ms: float | None = None
    failed: str = ""

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {"failed": self.failed} if self.failed else {"ms": self.ms, "stderr_ms": self.stderr_ms}


@dataclass(frozen=True)
class NetworkProfile:
    """What a network costs, as a whole and layer by layer.

    Attributes:
        what: its name, inputs and outputs.
        inputs: that it was timed on.
        whole: MFLOPs, parameters and size.
        latency: latency runtime → time.
        plan: how it was timed; its runtime says nothing.
        runtime: device and layout, as :meth:`Runtime.describe` returns it.
        layers: every module that counts, stores or takes something, in network order.
        uncounted: operations without a formula for their multiply–accumulates.
    """

    what: Architecture
    inputs: Inputs
    whole: Measurement
    latency: Mapping[str, Latency]
    plan: TimingPlan
    runtime: Mapping[str, str | int]
    layers: tuple[LayerProfile, ...]
    uncounted: tuple[Uncounted, ...]

    @property
    def described_inputs(self) -> str:
        """Return what goes in, in words: ``3×32×32``, or the type and shape of everything."""
        return "×".join(map(str, self.what.input_shape)) or str(self.inputs).removeprefix("inputs ")

    @property
    def batch(self) -> int | None:
        """Return the examples of a timed forward pass, ``None`` where they cannot be told apart."""
        return self.inputs.size

    @property
    def eager_seconds(self) -> float:
        """Return what the layers take together, the clocks between them included."""
        return sum(layer.seconds for layer in self.layers)

    def to_json(self) -> JsonObject:
        """Return plain types for JSON."""
        return {
            "model": self.what.source,
            "input_shape": list(self.what.input_shape),
            "num_classes": self.what.num_classes,
            "inputs": self.described_inputs,
            "flop_convention": FLOP_CONVENTION,
            "whole": dict(self.whole.values),
            "latency": {name: latency.to_json() for name, latency in self.latency.items()},
            "timing": {**{k: v for k, v in self.plan.to_json().items() if k != "runtime"}, "batch": self.batch},
            "runtime": dict(self.runtime),
            "versions": versions(),
            "layers": [_layer_to_json(layer, self.eager_seconds) for layer in self.layers],
            "layers_eager_ms": 1e3 * self.eager_seconds,
            "uncounted": [asdict(one) for one in self.uncounted],
        }


def _layer_to_json(layer: LayerProfile, total: float) -> JsonObject:
    return {
        **layer_to_json(layer),
        "mparams": layer.params / 1e6,
        "size_mb": layer.stored_bytes / 1e6,
        "eager_ms": 1e3 * layer.seconds,
        "share": layer.seconds / total,
    }


def profile_network(
    network: nn.Module,
    what: Architecture,
    runtime: Runtime,
    plan: TimingPlan,
    names: Sequence[str] | None = None,
    inputs: Inputs | None = None,
) -> NetworkProfile:
    """Return everything that ``autoprune profile`` shows.

    Args:
        network: in eval mode.
        what: its name, inputs and outputs.
        runtime: device and layout.
        plan: how to time; its runtime is not looked at.
        names: latency runtimes to time it in; ``None`` for :func:`usual_engines`, of which one that does not take the
            network is passed over, with the reason.
        inputs: a batch, repeated or cut to as many examples as are timed; ``None`` for one that is made up.

    Raises:
        UsageError: if this machine lacks a latency runtime that is named.
        ExportError, ModelError: if it does not take the network.
        ModelError: if the network takes objects that only the user can make.
    """
    for name in names or ():
        check_engine(replace(plan, runtime=name), runtime.device)
    placed = runtime.place(network)
    made = what.example(plan.batch) if inputs is None or inputs.is_plain else inputs.of_size(plan.batch)
    example = made.map(runtime.place_images)
    counted = measure_network(placed, example)
    chosen = usual_engines(runtime.device) if names is None else names
    latency = {name: _time(placed, example, plan, name, must=names is not None) for name in chosen}
    with cpu_threads(plan.threads):
        layers = profile_layers(placed, example)
    uncounted = uncounted_operations(placed, example)
    return NetworkProfile(what, example, counted, latency, plan, runtime.describe(), tuple(layers), tuple(uncounted))


def _time(network: nn.Module, example: Inputs, plan: TimingPlan, name: str, *, must: bool) -> Latency:
    """Return the latency in one runtime, or why there is none if there need not be one."""
    try:
        return Latency(*time_alone(network, example, plan, engine_of(name)))
    except AutopruneError as fault:
        if must:
            raise
        return Latency(failed=str(fault))
