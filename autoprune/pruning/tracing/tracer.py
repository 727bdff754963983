"""The trace of a network: one forward pass, and from its operations, which channels are the same.

A dispatch mode sees every operation with the parameters it uses. ``rule_table.py`` holds, for each, how the channels
of its inputs become those of its output; modules with heads are seen from outside only. No class is known beyond
those of ``layers/``, so any network that runs can be traced. What cannot be followed is frozen, with the line of the
user's code where it was lost.
"""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from autoprune.pruning.layers.axes import LayerKind
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.tracing.channel_union import Channels
from autoprune.pruning.tracing.rule_helpers import follow_unknown
from autoprune.pruning.tracing.rule_table import RULES
from autoprune.pruning.tracing.safe_forward import plain_attention

OUTPUT = "its channels are the network's output"
NOT_THE_USERS = (str(Path(__file__).parents[1]) + os.sep, str(Path(torch.__file__).parent) + os.sep, "<")
_LARGEST = 1_000_000  # elements of a bare parameter that are followed one by one


class OutOfTime(Exception):
    """Tracing took longer than it may."""


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode in which the atoms of its channels accompany every activation.

    Attributes:
        channels: what is known so far.
        shapes: path → shape, of every bare parameter that was used.
        makers: the sides of bare parameters that make channels, as the weight of a linear map does.
        is_exact: whether every number was in float64.

    Args:
        network: in eval mode.
        deadline: ``time.monotonic()`` after which tracing is given up.
    """

    def __init__(self, network: nn.Module, deadline: float = float("inf")) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.network, self.deadline = network, deadline
        self.channels = Channels(self._whereabouts)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.makers: set[tuple[str, str]] = set()
        self.is_exact = True
        self._labels: Any = WeakIdKeyDictionary()
        self._paths = _tensor_paths(network)
        self._shared = _shared(network)
        self._opaque = 0
        self._running: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if time.monotonic() > self.deadline:
            raise OutOfTime
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != torch.float64:
            self.is_exact = False
        if self._opaque:
            return result
        name = func._schema.name.removeprefix("aten::")
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None:
            rule = RULES["add"] if torch.Tag.pointwise in func.tags else follow_unknown
        try:
            rule(self, func, args, kwargs, result)
        except Exception:  # a rule cannot foresee every use of an operation, and a lost channel is only frozen
            follow_unknown(self, func, args, kwargs, result)
        return result

    # what rules read and write

    def labels(self, tensor: Any) -> Tensor | None:
        """Return the atoms of an activation or bare parameter, ``None`` if it has no channels that can be cut."""
        if not isinstance(tensor, Tensor):
            return None
        found: Tensor | None = self._labels.get(tensor)
        if found is None and id(tensor) in self._paths and tensor.numel() > 1 and tensor.is_floating_point():
            found = self._elements(tensor)
        return found

    def _elements(self, tensor: Tensor) -> Tensor | None:
        path = self._paths[id(tensor)]
        if tensor.numel() > _LARGEST or path in self._shared:
            return None
        self.shapes[path] = tuple(tensor.shape)
        return self.channels.atoms(path, "elements", tensor.numel()).view(tensor.shape)

    def set_labels(self, tensor: Any, labels: Tensor | None) -> None:
        """Note the atoms of a result."""
        if not isinstance(tensor, Tensor):
            return
        if labels is None:
            self._labels.pop(tensor, None)
        else:
            self._labels[tensor] = labels.expand(tensor.shape)

    def layer(self, weight: Any) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the layer that owns a parameter: its path, the module and its kind; ``None`` if there is none."""
        path = self._paths.get(id(weight), "").rpartition(".")[0]
        module = self.network.get_submodule(path)
        kind = kind_of(module)
        return (path, module, kind) if kind is not None and id(weight) in self._paths else None

    def running(self) -> tuple[str, nn.Module, LayerKind] | None:
        """Return the norm without parameters that is running, if one is."""
        if not self._running:
            return None
        module = self.network.get_submodule(self._running[-1])
        kind = kind_of(module)
        return (self._running[-1], module, kind) if kind else None

    def path_of(self, tensor: Any) -> str | None:
        """Return the path of a parameter or buffer."""
        return self._paths.get(id(tensor))

    def side(self, path: str, side: str, count: int) -> Tensor:
        """Return the atoms of one side of a layer; those of a layer that shares its weights are frozen."""
        atoms = self.channels.atoms(path, side, count)
        if path in self._shared:
            self.channels.freeze(atoms, f"{path} shares its weight with {self._shared[path]}")
        return atoms

    # modules that are seen from outside

    def enter(self, *_: Any) -> None:
        """Ignore operations from now on: a module with heads begins."""
        self._opaque += 1

    def leave(self, path: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        """Follow operations again: a module with heads has returned."""
        self._opaque -= 1
        if self._opaque:
            return
        kind = kind_of(module)
        sizes = kind.sizes(module) if kind else {}
        for side, count in sizes.items():
            self.side(path, side, count)
        for value in _tensors(args, kwargs):
            labels = self.labels(value)
            if labels is not None and value.shape[-1] == sizes["in"]:
                self.channels.unite(labels, self.side(path, "in", sizes["in"]).expand_as(labels))
        first = result[0] if isinstance(result, tuple) else result
        self.set_labels(first, self.side(path, "out", sizes["out"]))

    def _whereabouts(self) -> str:
        """Return the innermost line of code outside of PyTorch and of this package."""
        for frame in reversed(traceback.extract_stack()):
            if not frame.filename.startswith(NOT_THE_USERS):
                return f" ({Path(frame.filename).name}:{frame.lineno}, in {frame.name}: {frame.line})"
        return ""


def trace(network: nn.Module, example: Tensor, seconds: float = float("inf")) -> Tracer:
    """Run a network on one example and return the tracer with what it found.

    Args:
        network: in eval mode, on the CPU.
        example: shape ``(1, *input_shape)``.
        seconds: how long this may take.

    Raises:
        OutOfTime: if it takes longer.
    """
    tracer = Tracer(network, time.monotonic() + seconds)
    with ExitStack() as hooks:
        hooks.enter_context(plain_attention())
        for path, module in network.named_modules():
            kind = kind_of(module)
            if kind is None:
                continue
            watch = _watch if kind.slim is not None else _note
            if kind.slim is not None or not any(True for _ in module.parameters()):
                for handle in watch(tracer, path, module):
                    hooks.callback(handle.remove)
        with torch.inference_mode(), tracer:
            result = network(example)
    for value in _tensors(result if isinstance(result, (tuple, list)) else (result,), {}):
        tracer.channels.freeze(tracer.labels(value), OUTPUT, here=False)
    return tracer


def _watch(tracer: Tracer, path: str, module: nn.Module) -> tuple[Any, Any]:
    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        tracer.leave(path, module, args, kwargs, result)

    return (
        module.register_forward_pre_hook(tracer.enter),
        module.register_forward_hook(leave, with_kwargs=True),
    )


def _note(tracer: Tracer, path: str, module: nn.Module) -> tuple[Any, Any]:
    """Record in the tracer that a layer without parameters of its own is running."""
    return (
        module.register_forward_pre_hook(lambda *_: tracer._running.append(path)),
        module.register_forward_hook(lambda *_: (tracer._running.pop(), None)[1]),
    )


def _tensors(args: Any, kwargs: Mapping[str, object]) -> list[Tensor]:
    """Return every tensor among arguments, lists included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += _tensors(value, {})
    return found


def _tensor_paths(network: nn.Module) -> dict[int, str]:
    """Return identity → path of every parameter and buffer; the first path of one that has several."""
    paths: dict[int, str] = {}
    for path, tensor in (*network.named_parameters(), *network.named_buffers()):
        paths.setdefault(id(tensor), path)
    return paths


def _shared(network: nn.Module) -> dict[str, str]:
    """Return the paths of modules and parameters that others hold too → who shares them."""
    holders: dict[int, list[str]] = {}
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(f"{path}.{name}".removeprefix("."))
    count = Counter({identity: len(paths) for identity, paths in holders.items()})
    shared = {}
    for identity, paths in holders.items():
        if count[identity] > 1:
            for path in paths:
                other = next(p for p in paths if p != path)
                shared[path] = other
                shared[path.rpartition(".")[0]] = other.rpartition(".")[0]
    return shared
