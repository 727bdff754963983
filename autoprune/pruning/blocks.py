"""Find the modules that can be dropped whole, because they only add to what passes through: y = x + f(x).

They are found from the operations of one forward pass, not from class names. A tensor *carries* the input of a module
call as long as it was reached from it by additions only (or by an activation that leaves that input as it is); a
module whose output still carries its input, and which reads that input to compute what it adds, is a block. Every
block is then proved: the network without it must run, and compute what the dense one computes with a hook that makes
the block return its input. What fails is left out. Combined with ``groups.py``, whose groups may live inside a block.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.core.space import Block, PruningGroup
from autoprune.errors import ModelError, did_you_mean
from autoprune.pruning.tracing.safe_forward import answer_of, plain_attention

# Operations by their name in ATen, without the underscore of the in-place twin.
SAME = {"alias", "clone", "detach", "expand", "slice", "_to_copy", "_unsafe_view", "view"}  # where the shape stays
ADDS_TO_FIRST = {"add", "sub", "addcmul", "addcdiv"}
ACTIVATIONS = {"relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold", "leaky_relu", "elu"}
ROUNDING = 1e-5  # float32 sums in another order differ by about 1e-6 of the output


class DroppedBlock(nn.Module):
    """Stand where a block was: return the first argument unchanged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``x`` itself; whatever else the block was called with is ignored."""
        return x


def find_blocks(network: nn.Module, example: Tensor, groups: Sequence[PruningGroup] = ()) -> tuple[Block, ...]:
    """Find and prove the smallest modules that can be dropped whole, in network order; the network is not touched.

    Args:
        network: the dense network, on any device.
        example: one batch of input, shape ``(N, *input_shape)``; one image is enough.
        groups: what can be cut; a block names those that live inside it alone.

    Raises:
        ModelError: if the network does not run on the example, or does not return one tensor.
    """
    probe = copy.deepcopy(network).cpu().float().eval()
    example = example.detach().cpu()
    example = example.float() if example.is_floating_point() else example  # not the indices of an embedding
    with plain_attention(), torch.no_grad():
        seen = _watch(probe, example)
        shared = _shared_paths(probe)
        weighted = [name for name, module in probe.named_modules() if next(module.parameters(), None) is not None]
        adding = [name for name in weighted if name in seen and seen[name].adds]
        names = [name for name in adding if _is_self_contained(Block(name), seen, shared)]
        proved = _proved(probe, example, _smallest(names))
    return tuple(Block(name, _groups_inside(Block(name), groups)) for name in proved)


def drop(network: nn.Module, names: Iterable[str]) -> None:
    """Put a :class:`DroppedBlock` in place of each named module, in place; nothing changes if a name is unknown.

    Raises:
        ModelError: if the network has no such module.
    """
    names = list(names)
    known = {name for name, _ in network.named_modules(remove_duplicate=False)} - {""}
    for name in names:
        if name not in known:
            raise ModelError(
                f"the network has no block {name!r}{did_you_mean(name, known)}; the policy was made for another network"
            )
    for name in sorted(names, key=lambda name: -name.count(".")):  # inner ones first, while they can be reached
        _put(network, name, DroppedBlock())


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)


# one forward pass, watched


@dataclass(eq=False)
class _Call:
    """Follow one call of a module while it runs.

    Attributes:
        entered: a copy of what came in, because the call may overwrite it; ``None`` once it has ended.
        is_read: whether something other than the additions themselves has read what came in.
    """

    entered: Tensor | None
    is_read: bool = False


_Carried = dict[_Call, bool]  # which inputs a tensor carries, and whether anything was added to them


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keep, for every living tensor, the module inputs it carries.

    What a tensor carries is forgotten as soon as its memory is written to, through whichever view.
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
        """Run one operation, and note what its result carries."""
        kwargs = kwargs or {}
        taken = {call for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) for call in self.of(leaf)}
        operands = [(_looks(arg), self.of(arg)) if isinstance(arg, Tensor) else (None, {}) for arg in args[:2]]
        output = func(*args, **kwargs)
        for tensor in _written(func, args, kwargs):
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
            if _memory(tensor) == _memory(written):
                del self._carried[tensor]


def _memory(tensor: Tensor) -> int | None:
    """Return where a tensor's memory begins, ``None`` if it has none of its own, as a sparse one."""
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:
        return None


def _looks(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Return the tensors that an operation writes to, as its schema says."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))


def _carry(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], operands: Sequence[_Carried]) -> _Carried:
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


def _leaves(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], call: _Call) -> bool:
    """Return whether an activation leaves the input of a call exactly as it is, as ReLU does after another ReLU."""
    if call.entered is None:
        return False
    return torch.equal(func(call.entered.clone(), *args[1:], **kwargs), call.entered)


@dataclass
class _Seen:
    """Hold what one forward pass showed of a module.

    Attributes:
        calls: how often it was called.
        adds: whether it returned one tensor, x + f(x) for the tensor x it was called with.
        inside: names of the modules that enclosed every one of its calls, its own included.
    """

    calls: int
    adds: bool
    inside: frozenset[str]


def _watch(network: nn.Module, example: Tensor) -> dict[str, _Seen]:
    """Return module path → what was seen of it; modules that are never called are missing."""
    seen: dict[str, _Seen] = {}
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
        before = seen.get(name, _Seen(0, False, inside))
        seen[name] = _Seen(before.calls + 1, adds, before.inside & inside)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            hooks.callback(module.register_forward_pre_hook(lambda _, args, name=name: enter(name, args)).remove)
            hooks.callback(module.register_forward_hook(lambda _, args, y, name=name: leave(name, y)).remove)
        hooks.enter_context(recorder)
        answer_of(network, example)
    return seen


# which of them


def _shared_paths(network: nn.Module) -> list[list[str]]:
    """Return the paths of every module and parameter that has several."""
    paths: dict[int, list[str]] = defaultdict(list)
    for name, module in network.named_modules(remove_duplicate=False):
        paths[id(module)].append(name)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        paths[id(parameter)].append(name)
    return [names for names in paths.values() if len(names) > 1]


def _is_self_contained(block: Block, seen: Mapping[str, _Seen], shared: Iterable[Sequence[str]]) -> bool:
    """Return whether a module is a part of the network, called once, and nothing in it is used from elsewhere."""
    return (
        block.name != ""
        and seen[block.name].calls == 1
        and all(block.name in one.inside for name, one in seen.items() if block.holds(name))
        and all(len({block.holds(path) for path in paths}) == 1 for paths in shared)
    )


def _smallest(names: Sequence[str]) -> list[str]:
    """Return the names of modules in which none of the others lies."""
    return [name for name in names if not any(other != name and Block(name).holds(other) for other in names)]


def _groups_inside(block: Block, groups: Iterable[PruningGroup]) -> tuple[str, ...]:
    return tuple(group.name for group in groups if all(block.holds(member.module) for member in group.members))


# the proof


def _proved(network: nn.Module, example: Tensor, names: Iterable[str]) -> list[str]:
    """Return the blocks that can be dropped one by one, and all together."""
    shape = network(example).shape
    alone = [name for name in names if _can_go(network, example, [name], shape)]
    if _can_go(network, example, alone, shape):
        return alone
    together: list[str] = []
    for name in alone:
        together += [name] if _can_go(network, example, [*together, name], shape) else []
    return together


def _can_go(network: nn.Module, example: Tensor, names: Sequence[str], shape: torch.Size) -> bool:
    """Return whether a network without these blocks computes what it does when they return their input."""
    try:
        with _changed(network, names, _let_pass):
            expected = network(example)
        with _changed(network, names, _skip):
            output = network(example)
    except Exception:  # whatever the user's own network raises without a block, the block is needed
        return False
    if output.shape != shape or not torch.isfinite(output).all():
        return False
    tolerance = ROUNDING * expected.abs().max().item()
    return torch.allclose(output, expected, rtol=0, atol=tolerance)


@contextmanager
def _changed(
    network: nn.Module, names: Iterable[str], change: Callable[[nn.Module, str], Callable[[], None]]
) -> Iterator[None]:
    """Change the named modules, and undo it."""
    with ExitStack() as undo:
        for name in names:
            undo.callback(change(network, name))
        yield


def _skip(network: nn.Module, name: str) -> Callable[[], None]:
    block = network.get_submodule(name)
    _put(network, name, DroppedBlock())
    return lambda: _put(network, name, block)


def _let_pass(network: nn.Module, name: str) -> Callable[[], None]:
    """Make a module return what it was given, as it was before the module wrote into it."""
    block, given = network.get_submodule(name), list[Tensor]()

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        given.append(args[0].clone())

    hooks = block.register_forward_pre_hook(keep), block.register_forward_hook(lambda *_: given.pop())

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
