"""Groups of channels that must go together: found by tracing, and each proved by cutting it.

The trace proposes groups, and a trial cut proves them: every group is cut at random in a copy, which must compute
exactly what the dense network computes with those channels zeroed. What fails is frozen, with the reason.
"""

from __future__ import annotations

import random
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.core.channel_groups import FrozenGroup, Member, PruningGroup, Side
from autoprune.errors import ModelError
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.surgery import shrink, zeroed
from autoprune.pruning.tracing.safe_forward import answer_of
from autoprune.pruning.tracing.tracer import NOT_THE_USERS, OUTPUT, OutOfTime, Tracer, trace

ROUNDINGS = 100  # of the output; sums in another order differ by about three
SECONDS = 120.0

_Owner = tuple[str, Side]
_Places = dict[_Owner, list[int]]


@dataclass(frozen=True)
class Groups:
    """The groups found in a network, in network order.

    Attributes:
        cuttable: groups proved by a trial cut.
        frozen: groups that stay whole, each with its reason.
    """

    cuttable: tuple[PruningGroup, ...]
    frozen: tuple[FrozenGroup, ...]


def find_groups(network: nn.Module, example: Tensor, seconds: float = SECONDS) -> Groups:
    """Find and prove every group of coupled channels; the network is not touched.

    Args:
        network: the dense network, on any device.
        example: one batch of input, shape ``(N, *input_shape)``; gives the shapes, and is used for the proof.
        seconds: how long this may take; what is not proved by then is frozen, with that as the reason.

    Raises:
        ModelError: if the network does not run on the example, or is a ScriptModule.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError("a ScriptModule's layers cannot be cut; give the Python module that it was made from")
    deadline = time.monotonic() + seconds
    probe, example, expected = _probe(network, example)
    answer_of(probe, example[:1])  # which is what the trace sees
    order = {name: position for position, (name, _) in enumerate(_named(probe))}
    try:
        tracer = trace(probe, example[:1], seconds)
    except OutOfTime:
        return Groups((), tuple(_out_of_time(probe, seconds)))
    proposed, frozen = _propose(probe, tracer, order)
    rounding = torch.finfo(torch.float64 if tracer.is_exact else torch.float32).eps
    proved, failed = _Proof(probe, example, expected, deadline, seconds, rounding).all(proposed)
    return Groups(
        tuple(sorted(proved, key=lambda group: order[group.name.partition("[")[0]])),
        tuple(sorted([*frozen, *failed], key=lambda group: order[group.name.partition("[")[0]])),
    )


def _probe(network: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a copy in which no channel is silent, its input, and its output.

    Tensors of one value, such as a scale of zero before training, are drawn anew: a cut behind them would change
    nothing and prove nothing. In float64, if the network runs in it, rounding does not hide small changes either.
    """
    probe, example = copy_network(network).cpu().float().eval(), example.detach().cpu()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    example = example.float() if example.is_floating_point() else example
    expected = answer_of(probe, example)
    try:
        wide, same = copy_network(probe).double(), example.double() if example.is_floating_point() else example
        return wide, same, answer_of(wide, same)
    except ModelError:  # it makes float32 tensors of its own
        return probe, example, expected


def _named(network: nn.Module) -> Iterable[tuple[str, object]]:
    """Yield every module, parameter and buffer with its path, each module before what it holds."""
    for path, module in network.named_modules():
        yield path, module
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            yield f"{path}.{name}".removeprefix("."), tensor


def _out_of_time(network: nn.Module, seconds: float) -> Iterable[FrozenGroup]:
    for path, module in network.named_modules():
        kind = kind_of(module)
        if kind is not None and "in" in kind.sizes(module):
            channels = kind.sizes(module).get("out", 0)
            yield FrozenGroup(path, channels, f"the network could not be traced within {seconds:g} s")


def _propose(
    network: nn.Module, tracer: Tracer, order: Mapping[str, int]
) -> tuple[list[PruningGroup], list[FrozenGroup]]:
    """Read groups off the trace: channels with the same places belong to one group."""
    places: dict[int, _Places] = defaultdict(dict)
    for (path, side), roots in tracer.channels.owners():
        if side == "elements":
            side, roots = _along_one_dim(tracer, path, roots)
        for index, root in enumerate(roots):
            if root:
                places[root].setdefault((path, side), []).append(index)
    by_pattern: dict[tuple[tuple[_Owner, int], ...], list[int]] = defaultdict(list)
    for root, found in places.items():
        by_pattern[tuple(sorted((owner, len(indices)) for owner, indices in found.items()))].append(root)
    proposed: dict[str, PruningGroup] = {}
    frozen: list[FrozenGroup] = []
    sums = tracer.channels.added()
    for pattern, classes in by_pattern.items():
        owners = sorted((owner for owner, _ in pattern), key=lambda owner: (order[owner[0]], owner[1]))
        makers = [owner for owner in owners if owner in tracer.makers or _makes(network, *owner)]
        if not makers:
            continue  # the network's input, or a constant
        maker = makers[0]
        name = maker[0] if maker[0] not in proposed else f"{maker[0]}[{places[min(classes)][maker][0]}:]"
        group = _group(name, maker, owners, [places[each] for each in classes])
        if sums.intersection(classes) and sum(_mixes(network, member) for member in group.members) > 1:
            group = replace(group, is_residual=True)
        reasons = (tracer.channels.reason(each) for each in classes)
        reason = next((text for text in reasons if text is not None), _why_single(group, maker))
        if reason is None:
            proposed[name] = group
        else:
            frozen.append(_frozen(group, reason))
    return list(proposed.values()), frozen


def _why_single(group: PruningGroup, maker: _Owner) -> str | None:
    if group.num_channels > 1:
        return None
    width = next(member.width for member in group.members if (member.module, member.side) == maker)
    return f"all its {width} channels are coupled with one another" if width > 1 else "it has a single channel"


def _along_one_dim(tracer: Tracer, path: str, roots: list[int]) -> tuple[Side, list[int]]:
    """Return the dimension of a bare parameter along which its channels lie, and the class of each position."""
    whole = torch.tensor(roots).view(tracer.shapes[path])
    varying = tracer.channels.varying(whole)
    if len(varying) != 1:
        tracer.channels.freeze(whole, f"meets {path}, a parameter that cannot be cut along one dimension")
        return "dim0", []
    dim = varying.pop()
    for other in range(whole.dim()):
        whole = whole if other == dim else whole.narrow(other, 0, 1)
    return f"dim{dim}", whole.reshape(-1).tolist()


def _makes(network: nn.Module, path: str, side: Side) -> bool:
    """Return whether a side makes channels: a filter, a head, an embedding; a norm only passes them on."""
    try:
        module = network.get_submodule(path)
    except AttributeError:
        return False  # a bare parameter
    kind = kind_of(module)
    sizes = kind.sizes(module) if kind else {}
    return side == "heads" or (side == "out" and ("in" in sizes or isinstance(module, (nn.Embedding, nn.EmbeddingBag))))


def _group(name: str, maker: _Owner, owners: Sequence[_Owner], channels: Sequence[_Places]) -> PruningGroup:
    ordered = sorted(channels, key=lambda found: found[maker])
    members = tuple(
        Member(path, side, tuple(i for found in ordered for i in found[path, side]), len(ordered[0][path, side]))
        for path, side in owners
    )
    return PruningGroup(name, len(ordered), members)


def _mixes(network: nn.Module, member: Member) -> bool:
    """Return whether a member is a layer that makes the channels out of others, all with all."""
    if member.side != "out":
        return False
    try:
        module = network.get_submodule(member.module)
    except AttributeError:
        return False
    kind = kind_of(module)
    grouped = isinstance(module, _ConvNd) and module.groups > 1
    return kind is not None and "in" in kind.sizes(module) and not grouped


def _frozen(group: PruningGroup, reason: str) -> FrozenGroup:
    return FrozenGroup(group.name, group.num_channels, reason)


@dataclass(frozen=True)
class _Proof:
    """The proof of groups: they are cut in a copy, which is compared with the masked twin."""

    network: nn.Module
    example: Tensor
    expected: Tensor
    deadline: float
    seconds: float
    rounding: float

    def all(self, groups: Sequence[PruningGroup]) -> tuple[list[PruningGroup], list[FrozenGroup]]:
        """Prove all groups at once; if that fails, each half by itself, and then what is left together.

        Every group loses a random number of random channels of its own, so groups that should have been coupled
        cannot pass by losing the same ones.
        """
        if not groups:
            return [], []
        if time.monotonic() > self.deadline:
            return [], [_frozen(group, f"not proved within {self.seconds:g} s") for group in groups]
        if (reason := self.fault(groups)) is None:
            return list(groups), []
        if len(groups) == 1:
            return [], [_frozen(groups[0], reason)]
        half = len(groups) // 2
        proved, failed = self.all(groups[:half])
        more, also_failed = self.all(groups[half:])
        together = [*proved, *more]
        if proved and more and (reason := self.fault(together)) is not None:
            apart = [_frozen(group, f"can be cut only while others are not: {reason}") for group in together]
            return [], [*failed, *also_failed, *apart]
        return together, [*failed, *also_failed]

    def fault(self, groups: Iterable[PruningGroup]) -> str | None:
        """Return what went wrong when these groups were cut, ``None`` if nothing."""
        groups = tuple(groups)
        removed = {group.name: _random_channels(group) for group in groups}
        try:
            cut = plan_cut(self.network, groups, removed)
            small = shrink(self.network, cut)
            with torch.no_grad():
                found = small(self.example)
        except Exception as error:  # the user's own forward may raise anything
            return f"its forward pass fails once it is cut: {_where(error)}"
        if found.shape != self.expected.shape:
            return OUTPUT if len(groups) == 1 else "the output changes its shape"
        with torch.no_grad():
            wanted = zeroed(self.network, cut)(self.example)
        difference = float((found - wanted).abs().max())
        scale = float(torch.maximum(self.expected.abs().max(), wanted.abs().max()))
        if not difference <= ROUNDINGS * self.rounding * scale:
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
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(NOT_THE_USERS)
    ]
    last = frames[-1] if frames else None
    line = f" ({Path(last.filename).name}:{last.lineno}, in {last.name}: {last.line})" if last else ""
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{line}"
