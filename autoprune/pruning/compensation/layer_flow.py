"""Which norm comes right behind a layer, and which sum its result goes into: one forward pass, watched.

Combined with ``dense_answers.py``, which records the outputs that are found here, and ``compensate.py``, which refits
towards them. What cannot be proved by the pass is left out: a layer without a proved sum is refitted to its own output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.pruning.compensation.readers import is_counting_norm
from autoprune.pruning.compensation.rows import along_images


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor can be seen: the first one that a module is given, or returns."""

    module: str
    is_input: bool


@dataclass(frozen=True)
class Flow:
    """What one pass showed.

    Attributes:
        order: paths of the layers and norms that were called once, in the order of their calls.
        shapes: path → shape of what it returned.
        behind: layer → the batch norm that reads its output right behind it.
        sums: layer, or the norm behind it → where the other summand can be seen before the layer is called, if what it
            returns is used by one addition only.
        left: path → why a layer that was called is no part of this.
    """

    order: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    behind: Mapping[str, str]
    sums: Mapping[str, tuple[TensorPlace, ...]]
    left: Mapping[str, str]


def watch_flow(twin: nn.Module, layers: Collection[str], packed: Collection[str], example: Inputs) -> Flow:
    """Return what one forward pass shows about these layers, and about batch norms.

    Args:
        twin: the dense network, in eval mode.
        layers: paths of layers with weights.
        packed: paths of attention modules, whose own projection is a layer too, and what they return is not its output.
        example: of two examples or more, on the network's device.

    Raises:
        ModelError: if the network fails.
    """
    watch = _Watch(twin, frozenset(layers), frozenset(packed))
    with ExitStack() as hooks:
        for path, module in twin.named_modules():
            before = module.register_forward_pre_hook(watch.entering(path), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(module.register_forward_hook(watch.leaving(path)).remove)
        hooks.enter_context(watch)
        hooks.enter_context(torch.no_grad())
        answer_of(twin, example)
    return watch.flow()


@dataclass(frozen=True)
class _Made:
    path: str
    version: int


@dataclass
class _Seen:
    """What is known of the modules so far."""

    calls: Counter[str] = field(default_factory=Counter)
    entered: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    behind: dict[str, str] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    sums: dict[str, tuple[TensorPlace, ...]] = field(default_factory=dict)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of one pass, with the layer that made each tensor and the places where it was seen."""

    def __init__(self, network: nn.Module, layers: frozenset[str], packed: frozenset[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._network, self._layers, self._packed, self._clock = network, layers, packed, 0
        self._seen = _Seen()
        self._made: Any = WeakTensorKeyDictionary()
        self._places: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note what it does with the layers' results."""
        kwargs = kwargs or {}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and (made := self._maker(tensor)):
                self._seen.uses[made] += 1
        name = func.overloadpacket.__name__.removesuffix("_")
        pair = args[:2]
        is_sum = name == "add" and len(pair) == 2 and all(isinstance(each, Tensor) for each in pair)
        if is_sum and kwargs.get("alpha", 1) == 1 and pair[0].shape == pair[1].shape:
            self._note_sum(*pair)
        return func(*args, **kwargs)

    def _maker(self, tensor: Tensor) -> str:
        found: _Made | None = self._made.get(tensor)
        return found.path if found is not None and found.version == tensor._version else ""

    def _note_sum(self, first: Tensor, second: Tensor) -> None:
        """Note the sum for the summand that is made last: only then is the other one known."""
        makers = [(self._maker(mine), other) for mine, other in ((first, second), (second, first))]
        found = [(path, other) for path, other in makers if path and self._start(path) is not None]
        if not found:
            return
        path, other = max(found, key=lambda pair: self._start(pair[0]) or 0)
        start = self._start(path) or 0
        places = tuple(
            place
            for place, version, time in self._places.get(other) or ()
            if version == other._version and time < start
        )
        if places:
            self._seen.sums[path] = places

    def _start(self, path: str) -> int | None:
        """Return when the layer was called whose result this is, itself or by the norm behind it."""
        layer = next((layer for layer, norm in self._seen.behind.items() if norm == path), path)
        return self._seen.entered.get(layer) if layer in self._layers else None

    def entering(self, path: str) -> Any:
        """Return a hook for the beginning of a module's call."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._clock += 1
            self._seen.calls[path] += 1
            self._seen.entered[path] = self._clock
            given = next(iter(tensors_in(args, kwargs)), None)
            if given is None:
                return
            layer = self._maker(given)
            if layer in self._layers and self._fits(layer, module, given):
                self._seen.behind[layer] = path
            self._place(given, TensorPlace(path, True))

        return hook

    def _fits(self, layer: str, module: nn.Module, given: Tensor) -> bool:
        if not is_counting_norm(module):
            return False
        return along_images(self._network.get_submodule(layer), given) == along_images(module, given)

    def leaving(self, path: str) -> Any:
        """Return a hook for the end of a module's call."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._clock += 1
            result = next(iter(tensors_in(output)), None)
            if result is None:
                return
            self._seen.shapes[path] = tuple(result.shape)
            if path in self._layers or is_counting_norm(module):
                self._made[result] = _Made(path, result._version)
            self._place(result, TensorPlace(path, False))

        return hook

    def _place(self, tensor: Tensor, place: TensorPlace) -> None:
        before = self._places.get(tensor) or ()
        self._places[tensor] = (*before, (place, tensor._version, self._clock))

    def flow(self) -> Flow:
        """Return what was seen, without what was called more than once."""
        seen = self._seen
        once = {path for path, count in seen.calls.items() if count == 1}
        wanted = self._layers | self._packed
        known = [path for path, module in self._network.named_modules() if path in wanted or is_counting_norm(module)]
        order = sorted((path for path in known if path in once), key=seen.entered.__getitem__)
        behind = {layer: norm for layer, norm in seen.behind.items() if {layer, norm} <= once}
        sums = {
            path: tuple(place for place in places if place.module in once)
            for path, places in seen.sums.items()
            if path in once and seen.uses[path] == 1
        }
        left = {path: "it is called more than once" for path in known if seen.calls[path] > 1}
        left |= {path: "it is not called as a layer" for path in known if not seen.calls[path]}
        return Flow(tuple(order), seen.shapes, behind, {path: found for path, found in sums.items() if found}, left)
