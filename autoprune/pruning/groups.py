"""Find the groups of channels that must go together, and prove each one by cutting it.

The only door to torch-pruning. Its graph proposes; a trial cut disposes: every group is cut at random
in a copy, run forward, and must compute exactly what the dense network computes with those channels
zeroed. What fails is frozen with its reason, and the run goes on.
"""

from __future__ import annotations

import copy
import random
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.errors import ModelError
from autoprune.pruning.prune import cut_of, is_depthwise, shrink, why_uncuttable, zeroed
from autoprune.space import FrozenGroup, Member, PruningGroup, Side

# Float32 sums in another order differ by about 1e-6 of the output; a wrong cut by as much as it moves the output.
ROUNDING, SHARE_OF_MOVE = 1e-5, 1e-2
OUTPUT = "its channels are the network's output"


@dataclass(frozen=True)
class Groups:
    """Hold what was found in a network, in network order.

    Attributes:
        cuttable: groups proved by a trial cut.
        frozen: groups that stay whole, each with its reason.
    """

    cuttable: tuple[PruningGroup, ...]
    frozen: tuple[FrozenGroup, ...]


def find_groups(network: nn.Module, example: Tensor) -> Groups:
    """Find and prove every group of coupled channels; the network is not touched.

    Args:
        network: the dense network, on any device.
        example: one batch of input, shape ``(N, *input_shape)``; used for shapes and for the proof.

    Raises:
        ModelError: if the network does not run on the example, or its graph cannot be traced.
    """
    probe = copy.deepcopy(network).cpu().float().eval().requires_grad_(True)  # the graph is read from gradients
    example = example.detach().cpu().float()
    expected = _forward_dense(probe, example)
    proposed, frozen = _propose(probe, example)
    proposed, outputs = _without_outputs(probe, proposed, example)
    proved, failed = _prove_all(probe, proposed, example, expected)
    frozen = [*frozen, *outputs]
    order = {name: position for position, (name, _) in enumerate(probe.named_modules())}
    return Groups(
        tuple(sorted(proved, key=lambda group: order[group.name])),
        tuple(sorted([*frozen, *failed], key=lambda group: order[group.name])),
    )


def _forward_dense(network: nn.Module, example: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            output = network(example)
    except Exception as error:  # the user's own network may raise anything
        raise ModelError(
            f"the network does not run on an input of shape {tuple(example.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the network returns a {type(output).__name__} in eval mode; expected one tensor of class scores "
            f"(N, num_classes): wrap it in a module that returns only that"
        )
    return output


def _propose(network: nn.Module, example: Tensor) -> tuple[list[PruningGroup], list[FrozenGroup]]:
    """Read torch-pruning's groups into our own plain data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.enable_grad():
            graph, items = _trace(network, example)
    names = {module: name for name, module in network.named_modules()}
    shared = _shared_weights(network)
    proposed: list[PruningGroup] = []
    frozen: list[FrozenGroup] = []
    for group in items:
        try:
            proposed.append(_translate(graph, group, names, shared))
        except _Uncuttable as reason:
            frozen.append(FrozenGroup(reason.name, reason.channels, str(reason)))
    return _without_overlaps(proposed, frozen), frozen


def _trace(network: nn.Module, example: Tensor) -> tuple[Any, list[Any]]:
    import torch_pruning

    try:
        # fresh dictionaries: its mutable default arguments would keep modules alive
        graph = torch_pruning.DependencyGraph().build_dependency(
            network, example, unwrapped_parameters=[], customized_pruners={}, verbose=False
        )
        roots = [nn.modules.conv._ConvNd, nn.Linear]
        return graph, list(graph.get_all_groups(ignored_layers=[], root_module_types=roots))
    except Exception as error:  # a third party's tracer may raise anything
        raise ModelError(
            f"the network's graph cannot be traced by torch-pruning ({type(error).__name__}: {error}); "
            f"please report the network, or wrap the part that cannot be traced"
        ) from error


class _Uncuttable(Exception):
    def __init__(self, name: str, channels: int, reason: str) -> None:
        super().__init__(reason)
        self.name, self.channels = name, channels


def _translate(graph: Any, group: Any, names: dict[nn.Module, str], shared: set[str]) -> PruningGroup:
    """Turn one of torch-pruning's groups into ours.

    Raises:
        _Uncuttable: if a member is of a kind that cannot be cut, or its channels do not map evenly.
    """
    channels = len(group[0].idxs)
    name = _root_name(group, names)
    members: dict[tuple[str, Side], dict[int, list[int]]] = {}
    for item in group.items:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            path = next(path for path, parameter in graph.model.named_parameters() if parameter is module)
            raise _Uncuttable(name, channels, f"passes through {path}: a parameter outside of any layer")
        if module not in names:
            continue  # an operation without weights
        path = names[module]
        if (problem := why_uncuttable(module)) is not None:
            raise _Uncuttable(name, channels, f"passes through {path}: {problem}")
        if isinstance(module, nn.PReLU):
            continue  # one slope for all channels
        if path in shared:
            raise _Uncuttable(name, channels, f"{path} shares its weight with another layer")
        side: Side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        owned = members.setdefault((path, side), {})
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if index not in owned.setdefault(root, []):
                owned[root].append(index)
    built = tuple(_member(key, owned, name, channels) for key, owned in members.items())
    return PruningGroup(name, channels, built, _is_residual(built, graph.model))


def _is_residual(members: Iterable[Member], network: nn.Module) -> bool:
    """Return whether more than one layer that mixes channels produces the group."""
    producers = [network.get_submodule(member.module) for member in members if member.side == "out"]
    mixing = [module for module in producers if isinstance(module, (_ConvNd, nn.Linear)) and not is_depthwise(module)]
    return len(mixing) > 1


def _root_name(group: Any, names: dict[nn.Module, str]) -> str:
    """Return the path of the first layer, in network order, that produces the channels."""
    order = {path: position for position, path in enumerate(names.values())}
    producers = [
        names[item.dep.target.module]
        for item in group.items
        if isinstance(item.dep.target.module, (_ConvNd, nn.Linear)) and "out" in item.dep.handler.__name__
    ]
    return min(producers, key=order.__getitem__)


def _member(key: tuple[str, Side], owned: dict[int, list[int]], name: str, channels: int) -> Member:
    widths = {len(indices) for indices in owned.values()}
    if len(owned) != channels or len(widths) != 1:
        raise _Uncuttable(name, channels, f"its channels do not map evenly onto {key[0]} ({key[1]})")
    indices = tuple(index for channel in range(channels) for index in owned[channel])
    return Member(key[0], key[1], indices, widths.pop())


def _shared_weights(network: nn.Module) -> set[str]:
    """Return the paths of modules that hold a parameter which another module holds too."""
    holders = [
        (path, id(parameter))
        for path, module in network.named_modules()
        for parameter in module.parameters(recurse=False)
    ]
    count = Counter(identity for _, identity in holders)
    return {path for path, identity in holders if count[identity] > 1}


def _without_overlaps(proposed: list[PruningGroup], frozen: list[FrozenGroup]) -> list[PruningGroup]:
    """Freeze every group that claims an index which an earlier group owns."""
    owner: dict[tuple[str, str, int], str] = {}
    kept = []
    for group in proposed:
        claims = [(member.module, member.side, index) for member in group.members for index in member.indices]
        rival = next((owner[claim] for claim in claims if claim in owner), None)
        if rival is not None:
            frozen.append(_frozen(group, f"shares channels with the group {rival}"))
            continue
        owner.update(dict.fromkeys(claims, group.name))
        kept.append(group)
    return kept


def _without_outputs(
    network: nn.Module, groups: Sequence[PruningGroup], example: Tensor
) -> tuple[list[PruningGroup], list[FrozenGroup]]:
    """Set the groups aside whose channels are what the network returns, as seen in a forward pass.

    They could not pass the proof; known beforehand, they do not send it halving its way to them.
    """
    made: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        return lambda module, inputs, output: made.__setitem__(name, output)

    hooks = [module.register_forward_hook(record(name)) for name, module in network.named_modules()]
    with torch.no_grad():
        result = network(example)
    for hook in hooks:
        hook.remove()
    last = {name for name, output in made.items() if output is result}
    is_output = [any(member.module in last for member in group.producers()) for group in groups]
    return (
        [group for group, is_last in zip(groups, is_output, strict=True) if not is_last],
        [_frozen(g, OUTPUT) for g, is_last in zip(groups, is_output, strict=True) if is_last],
    )


def _prove_all(
    network: nn.Module, groups: Sequence[PruningGroup], example: Tensor, expected: Tensor
) -> tuple[list[PruningGroup], list[FrozenGroup]]:
    """Prove groups all at once; only where that fails one half at a time, and then what is left together.

    Every group loses its own random number of random channels, so groups that should have been coupled
    cannot pass by losing the same ones.
    """
    if not groups or (reason := _prove(network, groups, example, expected)) is None:
        return list(groups), []
    if len(groups) == 1:
        return [], [_frozen(groups[0], reason)]
    half = len(groups) // 2
    proved, failed = _prove_all(network, groups[:half], example, expected)
    more, also_failed = _prove_all(network, groups[half:], example, expected)
    together = [*proved, *more]
    if proved and more and (reason := _prove(network, together, example, expected)) is not None:
        apart = [_frozen(group, f"can be cut only while others are not: {reason}") for group in together]
        return [], [*failed, *also_failed, *apart]
    return together, [*failed, *also_failed]


def _frozen(group: PruningGroup, reason: str) -> FrozenGroup:
    return FrozenGroup(group.name, group.num_channels, reason)


def _prove(network: nn.Module, groups: Iterable[PruningGroup], example: Tensor, expected: Tensor) -> str | None:
    """Cut these groups in a copy and compare with the masked twin; return what went wrong, or ``None``."""
    groups = tuple(groups)
    removed = {group.name: _random_channels(group) for group in groups}
    cut = cut_of(network, groups, removed)
    small = shrink(network, cut)
    try:
        with torch.no_grad():
            found = small(example)
    except Exception as error:  # the user's own forward may raise anything
        return f"its forward pass fails once it is cut: {_where(error)}"
    if found.shape != expected.shape:
        return OUTPUT if len(groups) == 1 else "the output changes its shape"
    with torch.no_grad():
        wanted = zeroed(network, cut)(example)
    difference = float((found - wanted).abs().max())
    moved, scale = float((expected - wanted).abs().max()), float(expected.abs().max())
    if not difference <= SHARE_OF_MOVE * moved + ROUNDING * scale:
        return f"cutting it is not the same as zeroing its channels (outputs differ by {difference:.1e})"
    return None


def _random_channels(group: PruningGroup) -> tuple[int, ...]:
    """Return some of a group's channels, a quarter to a half of them; the same ones at every call."""
    generator = random.Random(group.name)
    high = max(1, group.num_channels // 2)
    count = generator.randint(min(high, max(1, group.num_channels // 4)), high) if group.num_channels > 1 else 0
    return tuple(sorted(generator.sample(range(group.num_channels), count)))


def _where(error: Exception) -> str:
    """Return the error with the line of the user's own code that it came from."""
    library = str(torch.__path__[0])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(library) and frame.filename != __file__
    ]
    line = f" (in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{line}"
