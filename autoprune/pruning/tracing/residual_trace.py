"""Which modules only add to what passes through them, y = x + f(x): one forward pass, watched operation by operation.

A tensor *carries* the input of a module call as long as it was reached from it by additions only (or by an activation
that leaves that input unchanged). A module *adds* if its output still carries its input, and if it reads that input to
compute what it adds. Combined with ``find_blocks.py``, which proves what is found here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.pruning.tracing.memory import memory_of, written_by

# Operations by their name in ATen, without the underscore of the in-place twin.
SAME = {"alias", "clone", "detach", "expand", "slice", "_to_copy", "_unsafe_view", "view"}  # where the shape stays
ADDS_TO_FIRST = {"add", "sub", "addcmul", "addcdiv"}
ACTIVATIONS = {"relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold", "leaky_relu", "elu"}


@dataclass(eq=False)
class _Call:
    """One call of a module, while it runs.

    Attributes:
        entered: a copy of what came in, because the call may overwrite it; ``None`` once it has ended.
        is_read: whether something other than the additions themselves has read what came in.
    """

    entered: Tensor | None
    is_read: bool = False


_Carried = dict[_Call, bool]  # which inputs a tensor carries, and whether anything was added to them


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """For every living tensor, the module inputs that it carries.

    A tensor carries nothing more once its memory is written to, through whichever view.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._carried = WeakTensorKeyDictionary()  # by identity; a dead tensor's entry goes with it

    def of(self, tensor: Tensor) -> _Carried:
        """Return what a tensor carries for calls that still run."""
        carried: _Carried = self._carried.get(tensor, {})  # type: ignore[no-untyped-call]
        return {call: added for call, added in carried.items() if call.entered is not None}

    def enter(self, x: Tensor) -> _Call:
        """Return a new call that ``x`` carries from now on."""
        call = _Call(x.detach().clone())
        self._carried[x] = {**self.of(x), call: False}
        return call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and record what its result carries."""
        kwargs = kwargs or {}
        taken = {call for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) for call in self.of(leaf)}
        operands = [(_looks(arg), self.of(arg)) if isinstance(arg, Tensor) else (None, {}) for arg in args[:2]]
        output = func(*args, **kwargs)
        for tensor in written_by(func, args, kwargs):
            self._forget(tensor)
        carried: _Carried = {}
        if taken and isinstance(output, Tensor):
            # an operand that was broadcast or cast is not what passes through
            same = [carries if looks == _looks(output) else {} for looks, carries in operands]
            carried = _carry(func, args, kwargs, same)
            self._carried[output] = carried
        for call in taken - set(carried):
            call.is_read = True
        return output

    def _forget(self, written: Tensor) -> None:
        for tensor in list(self._carried):
            if memory_of(tensor) == memory_of(written):
                del self._carried[tensor]


def _looks(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _carry(func: Any, args: Sequence[Any], kwargs: Mapping[str, object], operands: Sequence[_Carried]) -> _Carried:
    """Return what the result of an operation carries, given what its first two operands do."""
    name = func.overloadpacket.__name__.removesuffix("_")
    first, second = (*operands, {}, {})[:2]
    if name in SAME:
        return first
    if name in ADDS_TO_FIRST:
        both_ways = name == "add" and kwargs.get("alpha", 1) == 1
        calls = first.keys() ^ second.keys() if both_ways else first.keys() - second.keys()  # x + x is not x + f(x)
        return dict.fromkeys(calls, True)
    if name in ACTIVATIONS and "out" not in kwargs:
        return {call: added for call, added in first.items() if _leaves(func, args, kwargs, call)}
    return {}


def _leaves(func: Any, args: Sequence[Any], kwargs: Mapping[str, object], call: _Call) -> bool:
    """Return whether an activation leaves the input of a call unchanged, as ReLU does after another ReLU."""
    if call.entered is None:
        return False
    return torch.equal(func(call.entered.clone(), *args[1:], **kwargs), call.entered)


@dataclass
class SeenModule:
    """What one forward pass showed about a module.

    Attributes:
        calls: how often it was called.
        adds: whether it returned one tensor, x + f(x) for the tensor x it was called with.
        inside: names of the modules that enclosed every one of its calls, its own included.
    """

    calls: int
    adds: bool
    inside: frozenset[str]


def watch_modules(network: nn.Module, example: Inputs) -> dict[str, SeenModule]:
    """Return module path → what one forward pass showed about it; modules that are never called are missing."""
    seen: dict[str, SeenModule] = {}
    stack: list[tuple[str, _Call | None]] = []
    recorder = _Recorder()

    def enter(name: str, args: tuple[Any, ...]) -> None:
        x = args[0] if args and isinstance(args[0], Tensor) else None
        root = stack[0][1] if stack else None
        is_image = x is not None and root is not None and recorder.of(x).get(root) is False
        stack.append((name, None if x is None or is_image else recorder.enter(x)))

    def leave(name: str, y: Any) -> None:
        inside = frozenset(path for path, _ in stack)
        _, call = stack.pop()
        adds = call is not None and isinstance(y, Tensor) and recorder.of(y).get(call, False) and call.is_read
        if call is not None:
            call.entered = None
        before = seen.get(name, SeenModule(0, False, inside))
        seen[name] = SeenModule(before.calls + 1, adds, before.inside & inside)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_pre_hook(lambda _, args, name=name: enter(name, args)).remove)
            hooks.callback(module.register_forward_hook(lambda _, args, y, name=name: leave(name, y)).remove)
        hooks.enter_context(recorder)
        answer_of(network, example)
    return seen
