"""The multiply–accumulates of every weight, and of every other matrix product, from one forward pass.

PyTorch's flop counter splits the forward pass of one input into the operations that it has formulas for. Here each
formula is wrapped, so that what it counts is also recorded: for the parameter that the operation reads, recognised by
its address in memory, or else for the module that it happens in (products of attention). ``cost_model.py`` turns this
record into costs of networks that are not built.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from autoprune.cost.computed_weights import ComputedWeights
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network

_Shape: TypeAlias = tuple[int, ...]
_aten = torch.ops.aten
# where an operation's factors lie among its arguments; a weight is the last one that is a parameter
_FACTORS: Mapping[Any, tuple[int, ...]] = {
    _aten.mm: (0, 1),
    _aten.addmm: (1, 2),
    _aten.bmm: (0, 1),
    _aten.baddbmm: (1, 2),
    _aten.convolution: (1,),
    _aten._convolution: (1,),
}
# these read a whole weight, so one that was computed from a parameter is known by its shape
_READ_WHOLE = (_aten.mm, _aten.addmm, _aten.convolution, _aten._convolution)
_LSTM_LAYER = _aten.mkldnn_rnn_layer  # one direction of one layer in one piece; PyTorch has no formula for it


@dataclass(frozen=True)
class Usage:
    """The multiply–accumulates of one forward pass of one input; each is counted in one place only.

    Attributes:
        weights: (parameter path, path of the innermost module that reads it) → multiply–accumulates.
        products: path of the innermost module → multiply–accumulates of products that read no parameter.
    """

    weights: Mapping[tuple[str, str], int]
    products: Mapping[str, int]

    def of_parameter(self, path: str) -> int:
        """Return the multiply–accumulates of one parameter, whichever module reads it."""
        return sum(macs for (parameter, _), macs in self.weights.items() if parameter == path)


def record_usage(network: nn.Module, example: object) -> Usage:
    """Run one input through a copy on the CPU and record what each weight does; the network is not touched.

    Args:
        network: any network.
        example: one batch of inputs, as :meth:`Inputs.of` takes it.
    """
    twin = copy_network(network).cpu().eval().requires_grad_(False)
    record = _Record(twin)
    formulas = {op: _Watched(op, formula, record) for op, formula in flop_registry.items()}
    with record.following(twin):
        _count_pass(twin, example, {**formulas, _LSTM_LAYER: _Watched(_LSTM_LAYER, None, record)}, record.weight_paths)
    return Usage(dict(record.weights), dict(record.products))


def count_macs(network: nn.Module, example: object) -> int:
    """Count multiply–accumulates for one input, by PyTorch's own counter; the network is not touched.

    Args:
        network: any network.
        example: one batch of inputs, as :meth:`Inputs.of` takes it.
    """
    twin = copy_network(network).cpu().eval().requires_grad_(False)
    return _count_pass(twin, example, {_LSTM_LAYER: _lstm_layer_flops})


def _count_pass(
    network: nn.Module,
    example: object,
    formulas: Mapping[Any, Callable[..., int]],
    follower: ComputedWeights | None = None,
) -> int:
    """Run one input through a network on the CPU and return the multiply–accumulates that the counter sees."""
    counter = FlopCounterMode(display=False, custom_mapping=dict(formulas))
    with without_fused_attention(), torch.no_grad(), counter, follower or nullcontext():
        one_input(network, example).run(network)
    return int(counter.get_total_flops()) // 2


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Switch off the fused kernel that hides its products from the counter."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def one_input(network: nn.Module, example: object) -> Inputs:
    """Return the first example on the CPU, real numbers as the network computes; indices stay indices.

    Where examples cannot be told apart, as in a list of images, all of them count as one.
    """
    return Inputs.of(example).first(1).for_network(network)


def _lstm_layer_flops(x: _Shape, from_inputs: _Shape, from_hidden: _Shape, *_: Any, **__: Any) -> int:
    """Return two per weight and time step, from the shapes of input ``(steps, N, inputs)`` and both weights."""
    return 2 * prod(x[:-1]) * (prod(from_inputs) + prod(from_hidden))


class _Watched:
    """The counter's formula for one operation, which also writes into the record."""

    _get_raw = True  # asks the counter for the tensors instead of their shapes

    def __init__(self, op: Any, formula: Callable[..., int] | None, record: _Record) -> None:
        self.op, self.formula, self.record = op, formula, record

    def __call__(self, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
        if self.formula is None:
            steps, weights = int(args[0].numel()) // int(args[0].shape[-1]), args[1:3]
            return 2 * sum(self.record.add(steps * weight.numel(), (weight,), False) for weight in weights)
        macs = int(self.formula(*args, out_val=out_val, **kwargs)) // 2
        factors = tuple(args[place] for place in _FACTORS.get(self.op, ()))
        return 2 * self.record.add(macs, factors, self.op in _READ_WHOLE)


class _Record:
    """The multiply–accumulates of one pass so far, by parameter and module."""

    def __init__(self, network: nn.Module) -> None:
        self.weights: Counter[tuple[str, str]] = Counter()
        self.products: Counter[str] = Counter()
        self._modules = dict(network.named_modules())
        self._inside = [""]
        tensors = (*network.named_parameters(), *network.named_buffers())  # a fixed filter is a weight too
        named = ((p.data_ptr(), p.numel() * p.element_size(), path) for path, p in tensors)
        self._extents = sorted(extent for extent in named if extent[1])
        self._starts = [start for start, _, _ in self._extents]
        self.weight_paths = ComputedWeights(self._path_of)

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """Follow which module runs innermost, while the network runs."""
        modules = list(network.named_modules())
        hooks = [module.register_forward_pre_hook(self._enter(name)) for name, module in modules]
        hooks += [module.register_forward_hook(self._leave) for _, module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def add(self, macs: int, factors: tuple[Tensor, ...], whole: bool) -> int:
        """Record what one operation did.

        Args:
            macs: its multiply–accumulates.
            factors: the tensors that may be a parameter, or a part of one.
            whole: whether a weight computed from a parameter may be known by its shape.

        Returns:
            ``macs``.
        """
        module = self._inside[-1]
        path = next(filter(None, map(self.weight_paths.path_of, reversed(factors))), None)
        if path is None and whole:
            path = self._path_like(factors[-1].shape, module)
        if path is None:
            self.products[module] += macs
        else:
            self.weights[path, module] += macs
        return macs

    def _path_of(self, tensor: Tensor) -> str | None:
        """Return the parameter in whose memory a tensor lies."""
        place = bisect_right(self._starts, tensor.data_ptr()) - 1
        if place < 0:
            return None
        start, length, path = self._extents[place]
        return path if tensor.data_ptr() < start + length else None

    def _path_like(self, shape: torch.Size, module: str) -> str | None:
        """Return a module's one parameter of that shape or the transposed one, as a standardised weight has."""
        owner = self._modules[module]
        own = [*owner.named_parameters(recurse=False)]
        if parametrize.is_parametrized(owner):
            own += owner.parametrizations.named_parameters("parametrizations")
        alike = [name for name, parameter in own if sorted(parameter.shape) == sorted(shape)]
        return ".".join(filter(None, (module, alike[0]))) if len(alike) == 1 else None

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self._inside.append(name)

        return enter

    def _leave(self, *_: Any) -> None:
        self._inside.pop()
