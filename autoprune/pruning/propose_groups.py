"""From a trace to proposals: channels with the same places belong to one group.

A proposal is not yet proved; ``prove_groups.py`` cuts it. What the trace froze stays whole, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.core.channel_groups import FrozenGroup, Member, ProductShare, PruningGroup, Side
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.tracing.tensor_names import named_parts, shared_tensors
from autoprune.pruning.tracing.whole_trace import Trace

_Owner = tuple[str, Side]
_Places = dict[_Owner, list[int]]
ChannelOf = Mapping[int, tuple[str, int]]
"""The class of an atom → the group that its channel belongs to, and which of its channels it is."""


@dataclass(frozen=True)
class ProposedGroups:
    """What a trace proposes.

    Attributes:
        groups: to be proved, in network order.
        frozen: groups that stay whole, each with its reason.
        channel_of: where each channel of the trace went.
        order: group → where it stands in the network.
    """

    groups: tuple[PruningGroup, ...]
    frozen: tuple[FrozenGroup, ...]
    channel_of: ChannelOf
    order: Mapping[str, int]


def propose_groups(network: nn.Module, trace: Trace) -> ProposedGroups:
    """Return the groups that a trace shows, and what it froze.

    Args:
        network: that was traced.
        trace: of its passes.
    """
    return _Reader(network, trace).read()


@dataclass
class _Reader:
    """The way from the classes of channels to groups of them."""

    network: nn.Module
    trace: Trace
    groups: dict[str, PruningGroup] = field(default_factory=dict)
    frozen: list[FrozenGroup] = field(default_factory=list)
    channel_of: dict[int, tuple[str, int]] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.positions = {name: position for position, (name, _) in enumerate(named_parts(self.network))}

    def read(self) -> ProposedGroups:
        places = self._places()
        by_pattern: dict[tuple[frozenset[int], tuple[tuple[_Owner, int], ...]], list[int]] = defaultdict(list)
        parts = self._parts()
        for root, found in places.items():
            pattern = tuple(sorted((owner, len(indices)) for owner, indices in found.items()))
            by_pattern[frozenset(parts[root]), pattern].append(root)
        sums = self.trace.channels.added()
        for (_, pattern), classes in by_pattern.items():
            self._add([owner for owner, _ in pattern], classes, places, bool(sums.intersection(classes)))
        shares = _product_shares(self.trace, self.channel_of)
        groups = (replace(group, products=tuple(shares.get(name, ()))) for name, group in self.groups.items())
        return ProposedGroups(tuple(groups), tuple(self.frozen), self.channel_of, self.order)

    def _parts(self) -> dict[int, set[int]]:
        """Return class → the fixed parts of channels that it is in."""
        parts: dict[int, set[int]] = defaultdict(set)
        for number, atoms in enumerate(self.trace.findings.parts):
            for atom in atoms.tolist():
                parts[self.trace.channels.find(atom)].add(number)
        return parts

    def _places(self) -> dict[int, _Places]:
        """Return class → where its channels lie."""
        places: dict[int, _Places] = defaultdict(dict)
        for (path, side), roots in self.trace.channels.owners():
            if side == "elements":
                side, roots = self._along_one_dim(path, roots)
            for index, root in enumerate(roots):
                if root:
                    places[root].setdefault((path, side), []).append(index)
        return places

    def _along_one_dim(self, path: str, roots: list[int]) -> tuple[Side, list[int]]:
        """Return the dimension of a bare parameter along which its channels lie, and the class of each position."""
        channels = self.trace.channels
        whole = torch.tensor(roots).view(self.trace.findings.shapes[path])
        varying = channels.varying(whole)
        if len(varying) != 1:
            channels.freeze(whole, f"meets {path}, a parameter that cannot be cut along one dimension", here=False)
            return "dim0", []
        dim = varying.pop()
        for other in range(whole.dim()):
            whole = whole if other == dim else whole.narrow(other, 0, 1)
        return f"dim{dim}", whole.reshape(-1).tolist()

    def _add(
        self, unordered: Sequence[_Owner], classes: Sequence[int], places: Mapping[int, _Places], is_sum: bool
    ) -> None:
        owners = sorted(unordered, key=lambda owner: (self.positions[owner[0]], owner[1]))
        makers = [owner for owner in owners if owner in self.trace.findings.makers or _makes(self.network, *owner)]
        if not makers:
            return  # the network's input, or a constant
        maker = makers[0]
        ordered = sorted(classes, key=lambda each: places[each][maker])
        name = self._free_name(maker[0], places[ordered[0]][maker][0])
        self.order[name] = self.positions[maker[0]]
        group = _group(name, owners, [places[each] for each in ordered])
        if is_sum and sum(_mixes(self.network, member) for member in group.members) > 1:
            group = replace(group, is_residual=True)
        reasons = (self.trace.channels.reason(each) for each in classes)
        reason = next((text for text in reasons if text is not None), _why_single(group, maker))
        if reason is not None:
            self.frozen.append(FrozenGroup(group.name, group.num_channels, reason, group.layers))
            return
        self.groups[name] = group
        self.channel_of |= {each: (name, channel) for channel, each in enumerate(ordered)}

    def _free_name(self, path: str, first: int) -> str:
        """Return a name that no other group has: the path, or the path and its first channel."""
        name, further = path, f"{path}[{first}:]"
        while name in self.order:
            name, further = further, f"{further}'"
        return name


def _why_single(group: PruningGroup, maker: _Owner) -> str | None:
    if group.num_channels > 1:
        return None
    width = next(member.width for member in group.members if (member.module, member.side) == maker)
    return f"all its {width} channels are coupled with one another" if width > 1 else "it has a single channel"


def _makes(network: nn.Module, path: str, side: Side) -> bool:
    """Return whether a side makes channels: a filter, a head, an embedding; a norm only passes them on."""
    module = _module_at(network, path)
    is_embedding = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    return side == "heads" or (side == "out" and ("in" in _sizes_of(module) or is_embedding))


def _module_at(network: nn.Module, path: str) -> nn.Module | None:
    """Return the module of a path, ``None`` for that of a bare parameter."""
    try:
        return network.get_submodule(path)
    except AttributeError:
        return None


def _sizes_of(module: nn.Module | None) -> Mapping[Side, int]:
    """Return how many channels a module has on each side; none if it is of no known kind."""
    kind = kind_of(module) if module is not None else None
    return kind.sizes(module) if kind else {}


def _group(name: str, owners: Sequence[_Owner], channels: Sequence[_Places]) -> PruningGroup:
    members = tuple(
        Member(path, side, tuple(i for found in channels for i in found[path, side]), len(channels[0][path, side]))
        for path, side in owners
    )
    return PruningGroup(name, len(channels), members)


def _mixes(network: nn.Module, member: Member) -> bool:
    """Return whether a member is a layer that makes the channels out of others, all with all."""
    module = _module_at(network, member.module)
    grouped = isinstance(module, _ConvNd) and module.groups > 1
    return member.side == "out" and "in" in _sizes_of(module) and not grouped


def _product_shares(trace: Trace, channel_of: ChannelOf) -> dict[str, list[ProductShare]]:
    """Return group → the products of activations that shrink with it."""
    shares: dict[str, list[ProductShare]] = defaultdict(list)
    for number, product in enumerate(trace.findings.products):
        for factor, atoms in enumerate(product.factors):
            found = [channel_of.get(trace.channels.find(atom)) for atom in atoms.tolist()]
            for group in dict.fromkeys(place[0] for place in found if place is not None):
                channels = [place[1] for place in found if place is not None and place[0] == group]
                width = len(channels) // max(1, len(set(channels)))
                key = number, factor
                shares[group].append(ProductShare(product.module, key, product.macs, len(found), width, product.weight))
    return shares


def unnamed_layers(
    network: nn.Module, groups: Iterable[PruningGroup], frozen: Iterable[FrozenGroup], used: Iterable[str]
) -> list[FrozenGroup]:
    """Return an entry for every layer with parameters that stands in no group and among no frozen ones.

    Args:
        network: whose layers.
        groups: that can be cut.
        frozen: that stay whole.
        used: paths of the parameters that some pass read.
    """
    seen, shared = set(used), shared_tensors(network)
    named = {name for group in groups for name in (group.name, *group.layers)}
    named |= {name for group in frozen for name in (group.name, *group.layers)}
    heads = [name for name in named if name and "heads" in _sizes_of(_module_at(network, name))]
    found = []
    for path, module in network.named_modules():
        own = [f"{path}.{name}".removeprefix(".") for name, _ in module.named_parameters(recurse=False)]
        if not own or path in named:
            continue
        if any(each in named for each in own):
            if kind_of(module) is None:
                found += _unnamed_matrices(module, path, named)
            continue
        if any(path.startswith(f"{head}.") for head in heads) or ".parametrizations." in f".{path}":
            continue
        why = "no channels of it can be cut"
        if path in shared:
            why = f"shares its weight with {shared[path]}"
        elif seen.isdisjoint(own):
            why = "no pass runs it, in evaluation or in training"
        found.append(FrozenGroup(path or own[0], _size_of(module), why))
    return found


def _unnamed_matrices(module: nn.Module, path: str, named: Set[str]) -> list[FrozenGroup]:
    """Return an entry for every matrix of a module of the user's own that stands nowhere, though others of it do."""
    matrices = {
        f"{path}.{name}".removeprefix("."): parameter
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() > 1
    }
    return [
        FrozenGroup(name, parameter.shape[0], "no channels of it can be cut")
        for name, parameter in matrices.items()
        if name not in named
    ]


def _size_of(module: nn.Module) -> int:
    sizes = _sizes_of(module)
    return sizes.get("out") or max(p.shape[0] if p.dim() else 1 for p in module.parameters(recurse=False))
