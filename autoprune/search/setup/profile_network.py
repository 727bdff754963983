"""What a network costs, layer by layer and in several runtimes, as plain data: the door behind ``autoprune profile``.

Nothing is trained and nothing stored. Time does not depend on the weights, so none are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.builtin_names import MODELS
from autoprune.core.metrics import FLOP_CONVENTION
from autoprune.core.shapes import Shape
from autoprune.core.versions import versions
from autoprune.cost.cost_model import measure_network
from autoprune.cost.latency import cpu_threads, time_alone
from autoprune.cost.layer_profile import profile_layers, uncounted_operations
from autoprune.cost.timing_plan import TimingPlan
from autoprune.errors import AutopruneError, UnknownNameError, UsageError
from autoprune.export.architecture import Architecture, read_architecture
from autoprune.export.onnx import missing_packages
from autoprune.export.picked_files import WEIGHTS
from autoprune.export.saved_network import load
from autoprune.export.timing_runtimes import ONNX, check_runtime, engine_of
from autoprune.models.build import build_model
from autoprune.training.device.device import Runtime


def open_network(name: str, given: Architecture | None) -> tuple[nn.Module, Architecture]:
    """Return a network in eval mode on the CPU, and what it is: built by name, or loaded from a picked folder.

    Args:
        name: a folder that ``autoprune pick`` wrote, or a model's name as ``--model`` takes it.
        given: input shape and outputs of a model by name; a picked folder knows its own.

    Raises:
        UsageError: if the name is a folder that holds no picked network.
        UnknownNameError: if no model has this name.
        ModelError: if the network cannot be built or loaded.
    """
    if is_picked(name):
        return load(name), read_architecture(Path(name)).dense
    if Path(name).is_dir():
        raise UsageError(
            f"{name!r} is a folder without {WEIGHTS}; expected a model's name, or a folder that `autoprune pick` wrote"
        )
    if given is None:
        raise UnknownNameError("model", name, MODELS.names(), "Or a folder that `autoprune pick` wrote.")
    network = build_model(given.source, num_classes=given.num_classes, input_shape=given.input_shape, seed=0)
    return network.eval(), given


def is_picked(name: str) -> bool:
    """Return whether a name is the path of a picked network's folder."""
    return (Path(name) / WEIGHTS).is_file()


def usual_runtimes(device: str) -> list[str]:
    """Return the latency runtimes that take no minute to make ready and that this machine has."""
    if device != "cpu":
        return ["torch", "cuda"] if device == "cuda" else ["torch"]
    return ["torch"] if missing_packages() else ["torch", ONNX]


def profile_network(
    network: nn.Module,
    what: Architecture,
    runtime: Runtime,
    plan: TimingPlan,
    runtimes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return everything that ``autoprune profile`` shows, as JSON can hold it.

    Args:
        network: in eval mode.
        what: its name, inputs and outputs.
        runtime: device and layout.
        plan: how to time; its runtime is not looked at.
        runtimes: what to time it in; ``None`` for :func:`usual_runtimes`, of which one that does not take the network
            is told and passed over.

    Raises:
        UsageError: if a runtime that was asked for is not there.
        ExportError, ModelError: if it does not take the network.
    """
    for name in runtimes or ():
        check_runtime(replace(plan, runtime=name), runtime.device)
    placed = runtime.place(network)
    example = runtime.place_images(_random(what.input_shape, plan.batch))
    counted = measure_network(placed, example)
    times = {name: _time(placed, example, plan, name, must=runtimes is not None) for name in _names(runtimes, runtime)}
    with cpu_threads(plan.threads):
        layers = profile_layers(placed, example)
    total = sum(layer.seconds for layer in layers)
    return {
        "model": what.source,
        "input_shape": list(what.input_shape),
        "num_classes": what.num_classes,
        "flop_convention": FLOP_CONVENTION,
        "whole": dict(counted.values),
        "latency": times,
        "timing": {name: value for name, value in plan.to_json().items() if name != "runtime"},
        "runtime": runtime.describe(),
        "versions": versions(),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "inputs": layer.inputs,
                "outputs": layer.outputs,
                "mflops": layer.macs / 1e6,
                "mparams": layer.params / 1e6,
                "size_mb": layer.stored_bytes / 1e6,
                "eager_ms": 1e3 * layer.seconds,
                "share": layer.seconds / total,
            }
            for layer in layers
        ],
        "layers_eager_ms": 1e3 * total,
        "uncounted": [
            {"operation": one.operation, "calls": one.calls, "outputs": one.outputs}
            for one in uncounted_operations(placed, example)
        ],
    }


def _names(runtimes: Sequence[str] | None, runtime: Runtime) -> Sequence[str]:
    return usual_runtimes(runtime.device) if runtimes is None else runtimes


def _time(network: nn.Module, example: torch.Tensor, plan: TimingPlan, name: str, *, must: bool) -> dict[str, Any]:
    """Return the latency in one runtime, or why there is none if there need not be one."""
    try:
        milliseconds, error = time_alone(network, example, plan, engine_of(name))
    except AutopruneError as fault:
        if must:
            raise
        return {"failed": str(fault)}
    return {"ms": milliseconds, "stderr_ms": error}


def _random(shape: Shape, batch: int) -> torch.Tensor:
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
