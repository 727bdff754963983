"""Residual blocks that can be dropped whole, because they only add to what passes through: y = x + f(x).

``tracing/residual_trace.py`` proposes them from one forward pass, by the operations that ran and not by class names.
Every block is then proved: the network without it must run, and compute what the dense one computes with a hook that
makes the block return its input. What fails is left out. Combined with ``groups.py``, whose groups may live inside a
block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import Block, PruningGroup
from autoprune.models.calling.answers import answer_of, are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.drop_blocks import DroppedBlock, replace_module
from autoprune.pruning.tracing.residual_trace import SeenModule, watch_modules
from autoprune.pruning.tracing.safe_forward import plain_attention

ROUNDING = 1e-5  # float32 sums in another order differ by about 1e-6 of the output


def find_blocks(network: nn.Module, example: object, groups: Sequence[PruningGroup] = ()) -> tuple[Block, ...]:
    """Find and prove the smallest modules that can be dropped whole, in network order; the network is not touched.

    Args:
        network: the dense network, on any device.
        example: one batch of inputs, as for :func:`find_groups`; one example is enough.
        groups: what can be cut; a block names those that lie inside it entirely.

    Raises:
        ModelError: if the network does not run on the example, or returns no tensor.
    """
    probe = copy_network(network).cpu().float().eval()
    inputs = Inputs.of(example).on("cpu").real_as(torch.float32)
    with plain_attention(), torch.no_grad():
        seen = watch_modules(probe, inputs)
        shared = _shared_paths(probe)
        weighted = [name for name, module in probe.named_modules() if next(module.parameters(), None) is not None]
        adding = [name for name in weighted if name in seen and seen[name].adds]
        names = [name for name in adding if _is_self_contained(Block(name), seen, shared)]
        proved = _proved(probe, inputs, _smallest(names))
    return tuple(Block(name, _groups_inside(Block(name), groups)) for name in proved)


def _shared_paths(network: nn.Module) -> list[list[str]]:
    """Return the paths of every module and parameter that has several."""
    paths: dict[int, list[str]] = defaultdict(list)
    for name, module in network.named_modules(remove_duplicate=False):
        paths[id(module)].append(name)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        paths[id(parameter)].append(name)
    return [names for names in paths.values() if len(names) > 1]


def _is_self_contained(block: Block, seen: Mapping[str, SeenModule], shared: Iterable[Sequence[str]]) -> bool:
    """Return whether a module is called once, is not the whole network, and holds nothing that is used elsewhere."""
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


def _proved(network: nn.Module, inputs: Inputs, names: Iterable[str]) -> list[str]:
    """Return the blocks that can be dropped one by one, and all together."""
    dense = answer_of(network, inputs)
    alone = [name for name in names if _can_go(network, inputs, [name], dense)]
    if _can_go(network, inputs, alone, dense):
        return alone
    together: list[str] = []
    for name in alone:
        together += [name] if _can_go(network, inputs, [*together, name], dense) else []
    return together


def _can_go(network: nn.Module, inputs: Inputs, names: Sequence[str], dense: Sequence[Tensor]) -> bool:
    """Return whether a network without these blocks computes what it does when they return their input."""
    try:
        with _changed(network, names, _let_pass):
            expected = answer_of(network, inputs)
        with _changed(network, names, _skip):
            output = answer_of(network, inputs)
    except Exception:  # the user's own network may raise anything; it needs the block
        return False
    if not (are_of_one_shape(output, expected) and len(output) == len(dense)):
        return False
    pairs = list(zip(output, expected, dense, strict=True))
    is_finite = all(bool(torch.isfinite(one).all()) or not bool(torch.isfinite(whole).all()) for one, _, whole in pairs)
    return is_finite and all(difference(one, other) <= ROUNDING * magnitude(other) for one, other, _ in pairs)


@contextmanager
def _changed(
    network: nn.Module, names: Iterable[str], change: Callable[[nn.Module, str], Callable[[], None]]
) -> Iterator[None]:
    """Change the named modules for a stretch of code, then undo the changes."""
    with ExitStack() as undo:
        for name in names:
            undo.callback(change(network, name))
        yield


def _skip(network: nn.Module, name: str) -> Callable[[], None]:
    block = network.get_submodule(name)
    replace_module(network, name, DroppedBlock())
    return lambda: replace_module(network, name, block)


def _let_pass(network: nn.Module, name: str) -> Callable[[], None]:
    """Make a module return what it was given, as it was before the module wrote into it."""
    block, given = network.get_submodule(name), list[Tensor]()

    def store(_: nn.Module, args: tuple[Any, ...]) -> None:
        given.append(args[0].clone())

    hooks = block.register_forward_pre_hook(store), block.register_forward_hook(lambda *_: given.pop())

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
