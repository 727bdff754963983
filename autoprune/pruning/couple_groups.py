"""Groups that cannot be cut as they were proposed, and can once they are changed: with numbers, or with one another.

A group may need a number that some module keeps to shrink with it, and two groups may need to lose equally many
channels, because the code reads the width of one to shape the other. Both are tried, and proved like everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.faults import Fault, members_for
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.prove_groups import Proof

_ROUNDS = 8  # numbers in different places that one group may need
_NEIGHBOURS = 8  # other groups that one is tried together with

Failed = tuple[PruningGroup, Fault]


def with_numbers(proof: Proof, group: PruningGroup, fault: Fault) -> PruningGroup | None:
    """Return a group with the numbers that have to shrink with it, proved; ``None`` if that is not enough.

    Args:
        proof: of the network's groups.
        group: that cannot be cut as it is.
        fault: why.
    """
    for _ in range(_ROUNDS):
        if proof.is_over:
            return None
        for numbers in _choices(proof, group, fault):
            changed = replace(group, members=(*group.members, *numbers))
            found = proof.fault([changed])
            if found is None:
                return changed
            if found.reason != fault.reason and _is_further(found, fault):
                group, fault = changed, found
                break
        else:
            return None
    return None


def _is_further(found: Fault, before: Fault) -> bool:
    """Return whether a forward pass came further than it did: it now fails elsewhere, or no longer fails."""
    return found.reason.rpartition(" (")[2] != before.reason.rpartition(" (")[2]


def _choices(proof: Proof, group: PruningGroup, fault: Fault) -> Iterator[tuple[Member, ...]]:
    """Yield numbers that may have to shrink: all of a function that failed, then one by one; the innermost first."""
    places = fault.numbers or tuple(_around(proof, group))
    for numbers in places:
        fresh = tuple(each for each in numbers if each not in group.members)
        if fresh:
            yield fresh
    for numbers in places:
        if len(numbers) > 1:
            yield from ((each,) for each in numbers if each not in group.members)


def _around(proof: Proof, group: PruningGroup) -> Iterator[tuple[Member, ...]]:
    """Yield the numbers of the modules around a group's layers, for a pass that does not fail but is wrong."""
    network = proof.subject.network
    seen = set[str]()
    for member in group.members:
        path = member.module.rpartition(".")[0]
        while path not in seen:
            seen.add(path)
            if kind_of(network.get_submodule(path)) is None:
                numbers = members_for(network, path, group)
                if numbers:
                    yield numbers
            path = path.rpartition(".")[0]


def tied(proof: Proof, failed: Sequence[Failed]) -> tuple[list[PruningGroup], list[Failed]]:
    """Couple groups whose numbers must agree, and return what is proved then, and what still cannot be cut.

    Args:
        proof: of the network's groups.
        failed: groups that cannot be cut alone.
    """
    waiting, proved, left = list(failed), list[PruningGroup](), list[Failed]()
    while waiting:
        group, fault = waiting.pop(0)
        partners = None if proof.is_over or group.num_channels < 2 else _partners(proof, group, waiting)
        if partners is None:
            left.append((group, fault))
            continue
        names = {partner.name for partner in partners}
        merged = merge(group, partners)
        proof.alias.update({**dict.fromkeys(names, group.name)})
        waiting = [each for each in waiting if each[0].name not in names]
        proved.append(merged)
    return proved, left


def _partners(proof: Proof, group: PruningGroup, waiting: Sequence[Failed]) -> list[PruningGroup] | None:
    """Return the other groups with which one can be cut, as few as possible; ``None`` if there are none."""
    alike = [other for other, _ in waiting if _ratio(group, other) is not None]
    for other in alike[:_NEIGHBOURS]:
        if _passes(proof, group, [other]):
            return [other]
    return alike if len(alike) > 1 and _passes(proof, group, alike) else None


def _passes(proof: Proof, group: PruningGroup, others: Sequence[PruningGroup]) -> bool:
    before = dict(proof.alias)
    proof.alias.update({other.name: group.name for other in others})
    passed = proof.fault([merge(group, others)]) is None
    proof.alias.clear()
    proof.alias.update(before)
    return passed


def _ratio(group: PruningGroup, other: PruningGroup) -> int | None:
    """Return how many channels of another group go with one of a group, ``None`` if their numbers do not fit."""
    return 1 if group.num_channels == other.num_channels else None


def merge(group: PruningGroup, others: Iterable[PruningGroup]) -> PruningGroup:
    """Return groups of equally many channels as one: the first channel of each goes with the first of the others."""
    members, products, is_residual = group.members, group.products, group.is_residual
    for other in others:
        members, products = (*members, *other.members), (*products, *other.products)
        is_residual = is_residual or other.is_residual
    return replace(group, members=members, products=products, is_residual=is_residual)
