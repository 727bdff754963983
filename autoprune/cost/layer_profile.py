"""A network layer by layer: what each does, what it stores, how long it takes, and what was not counted.

The counts come from ``mac_counter.py`` and add up to those of ``cost_model.py``. The times are PyTorch's eager mode
with a clock before and after every module, so they add up to one forward pass that the clocks make slower; a compiler
or another engine fuses layers and has no such times. Combined with ``latency.py``, which times the whole network
without clocks in it.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from autoprune.core.json_values import JsonObject
from autoprune.cost.layer_table import LayerCost, layer_costs
from autoprune.cost.mac_counter import one_input, record_usage, without_fused_attention
from autoprune.cost.tensor_sizes import stored_tensors
from autoprune.cost.timing_engines import Clock, wait_for
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network

_MOVES = ("clone", "copy_", "_to_copy", "contiguous", "detach", "empty", "lift_fresh")  # they compute nothing


@dataclass(frozen=True)
class LayerProfile:
    """What one module does, its submodules not included.

    Attributes:
        name: module path; empty for the network itself.
        kind: class name.
        inputs: input channels each output reads; 0 if that means nothing here.
        outputs: channels it produces; 0 if that means nothing here.
        macs: multiply–accumulates for one input.
        params: parameters; shared ones count for their first owner.
        stored_bytes: of its parameters and persistent buffers; shared ones count for their first owner.
        seconds: of one forward pass of the example.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    macs: int
    params: int
    stored_bytes: int
    seconds: float


@dataclass(frozen=True)
class Uncounted:
    """One kind of operation that has no formula for its multiply–accumulates.

    Attributes:
        operation: PyTorch's name for it, without ``aten.``.
        calls: in one forward pass.
        outputs: numbers it produces for one input, all calls together.
    """

    operation: str
    calls: int
    outputs: int


def profile_layers(
    network: nn.Module, example: object, passes: int = 25, clock: Clock = time.perf_counter
) -> list[LayerProfile]:
    """Return every module that computes, stores or takes time, in network order; together they are the whole network.

    Args:
        network: in eval mode, on the example's device; not touched.
        example: one batch, as :meth:`Inputs.of` takes it; times are for the whole of it, counts for one example.
        passes: timed forward passes, at least 1; 3 more warm up.
        clock: returns seconds; replaced in tests.
    """
    costs = {cost.name: cost for cost in layer_costs(network, record_usage(network, example))}
    params, stored = Counter[str](), Counter[str]()
    for path, tensor in stored_tensors(network).items():
        owner = path.rpartition(".")[0]
        params[owner] += prod(tensor.shape) if tensor.is_parameter else 0
        stored[owner] += prod(tensor.shape) * tensor.element_size
    seconds = layer_seconds(network, example, passes, clock)
    found = []
    for name, module in network.named_modules():
        if costs.get(name) or params[name] or stored[name] or seconds.get(name):
            cost = costs.get(name)
            widths = (cost.inputs, cost.outputs, cost.macs) if cost else (0, 0, 0)
            own = params[name], stored[name], seconds.get(name, 0.0)
            found.append(LayerProfile(name, type(module).__name__, *widths, *own))
    return found


def layer_seconds(
    network: nn.Module, example: object, passes: int, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Return module path → seconds it takes by itself in one forward pass: medians over passes, which add up to one.

    Disturbances hit some module in every pass, so each module's median is taken, and all are scaled alike to add up to
    the median pass. A module that runs without being called, as the parts of a fused one, takes no time of its own;
    that lies with the one that runs it.

    Args: as for :func:`profile_layers`.
    """
    inputs = Inputs.of(example)
    watch = _Watch(network, inputs.device, clock)
    with torch.inference_mode(), watch:
        for _ in range(3):
            inputs.run(network)
        runs = [watch.run(lambda: inputs.run(network)) for _ in range(passes)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    whole, total = statistics.median(sum(run.values()) for run in runs), sum(middle.values())
    return {name: seconds * whole / total for name, seconds in middle.items()} if total > 0 else middle


class _Watch:
    """A clock read whenever a module begins or ends; the time since the last reading goes to the innermost one."""

    def __init__(self, network: nn.Module, device: torch.device, clock: Clock) -> None:
        self._modules = list(network.named_modules())
        self._device, self._clock = device, clock
        self._inside: list[str] = []
        self._since = 0.0
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._hooks: list[Any] = []

    def __enter__(self) -> _Watch:
        self._hooks = [module.register_forward_pre_hook(self._enter(name)) for name, module in self._modules]
        self._hooks += [module.register_forward_hook(self._leave, always_call=True) for _, module in self._modules]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def run(self, forward: Callable[[], object]) -> Mapping[str, float]:
        """Return module path → seconds of one forward pass."""
        self._spent = defaultdict(float)
        forward()
        return self._spent

    def _read(self) -> None:
        wait_for(self._device)
        now = self._clock()
        if self._inside:
            self._spent[self._inside[-1]] += now - self._since
        self._since = now

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._read()
            self._inside.append(name)

        return enter

    def _leave(self, *_: Any) -> None:
        self._read()
        self._inside.pop()


def uncounted_operations(network: nn.Module, example: object) -> list[Uncounted]:
    """Return the operations of one forward pass of one input whose multiply–accumulates are not counted.

    Views, and operations that only move numbers, are left out.

    Args:
        network: not touched.
        example: one batch, as :meth:`Inputs.of` takes it.
    """
    twin = copy_network(network).cpu().eval()
    with without_fused_attention(), torch.no_grad(), _Operations() as seen:
        one_input(twin, example).run(twin)
    return [Uncounted(name, seen.calls[name], seen.outputs[name]) for name, _ in seen.outputs.most_common()]


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A record of every operation that has no formula."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.outputs: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        counted = func._overloadpacket in flop_registry or "mkldnn_rnn" in name
        if not (counted or func.is_view or name in _MOVES):
            first = answer[0] if isinstance(answer, tuple | list) else answer
            self.calls[name] += 1
            self.outputs[name] += first.numel() if isinstance(first, Tensor) else 0
        return answer


def layer_to_json(layer: LayerCost | LayerProfile) -> JsonObject:
    """Return what a layer is and counts, as plain types for JSON."""
    return {
        "name": layer.name,
        "kind": layer.kind,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "mflops": layer.macs / 1e6,
    }
