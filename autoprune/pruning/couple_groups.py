"""Groups that cannot be cut as they were proposed, and can once they are changed: with numbers, or with one another.

A group may need a number that some module keeps to shrink with it, and two groups may need to lose equally many
channels, because the code reads the width of one to shape the other. Changes are tried one after the other, as long as
each lets the forward pass come further, and the whole is proved like everything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from autoprune.core.channel_groups import Member, PruningGroup
from autoprune.pruning.channel_positions import sizes_of
from autoprune.pruning.faults import CutFault, Draw, members_for
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.number_attributes import NUMBER, name_of
from autoprune.pruning.prove_groups import Proof, draws
from autoprune.pruning.sift_groups import Likeness, Sieve, Unproved, likeness_of, without_digits

_ROUNDS = 12  # changes that one group may need
_NEIGHBOURS = 8  # other groups that one is tried with
_TRIES = 4  # groups for which nothing helps, before their likes are given up


@dataclass(frozen=True)
class Repair:
    """What is tried for groups that cannot be cut.

    Attributes:
        sieve: with the proof of the network's groups.
        hints: class of a module → names of its numbers that other groups needed; tried early, all together.
        answers: what groups have in common → the numbers, by module, side and width, that one of them needed; tried
            first.
    """

    sieve: Sieve
    hints: dict[type[nn.Module], set[str]] = field(default_factory=dict)
    answers: dict[Likeness, set[tuple[str, str, int]]] = field(default_factory=dict)

    @property
    def proof(self) -> Proof:
        """Return the proof of the network's groups."""
        return self.sieve.proof

    def with_numbers(self, failed: Sequence[Unproved]) -> tuple[list[PruningGroup], list[Unproved]]:
        """Return the groups that can be cut with numbers, and those that cannot.

        What one group needed, its likes will need: they are proved with it at once.
        """
        waiting, proved, left = list(failed), list[PruningGroup](), list[Unproved]()
        lost = Counter[tuple[Likeness, str]]()
        while waiting:
            group, fault = waiting.pop(0)
            kind = _kind_of(group, fault)
            changed, _ = self._grown(group, fault, (), is_hopeless=lost[kind] >= _TRIES)
            if changed is None:
                lost[kind] += 1
                left.append((group, fault))
                continue
            lost[kind] = 0
            likes = [self._with_hints(each) for each, why in waiting if _kind_of(each, why)[0] == kind[0]]
            done, _ = self.sieve.sift(likes)
            proved += [changed, *done]
            names = {each.name for each in done}
            waiting = [each for each in waiting if each[0].name not in names]
        return proved, left

    def _with_hints(self, group: PruningGroup) -> PruningGroup:
        return _with(group, self._answered(group) or self._hinted(group))

    def coupled(self, failed: Sequence[Unproved]) -> tuple[list[PruningGroup], list[Unproved]]:
        """Return groups coupled with those whose numbers must agree, and those that still cannot be cut."""
        waiting, proved, left = list(failed), list[PruningGroup](), list[Unproved]()
        lost = Counter[tuple[Likeness, str]]()
        while waiting:
            group, fault = waiting.pop(0)
            kind = _kind_of(group, fault)
            others = [other for other, _ in waiting if other.num_channels == group.num_channels]
            if not others:
                left.append((group, fault))
                continue
            changed, names = self._grown(group, fault, others, is_hopeless=lost[kind] >= _TRIES)
            if changed is None:
                lost[kind] += 1
                left.append((group, fault))
                continue
            lost[kind] = 0
            waiting = [each for each in waiting if each[0].name not in names]
            proved.append(changed)
        return proved, left

    def _grown(
        self, group: PruningGroup, fault: CutFault, others: Sequence[PruningGroup], is_hopeless: bool
    ) -> tuple[PruningGroup | None, set[str]]:
        """Return a group with what has to shrink with it, and which others that takes; ``None`` if it cannot be cut.

        Args:
            group: to be cut.
            fault: what goes wrong.
            others: it may be coupled with.
            is_hopeless: whether nothing helped its likes, so that only what others needed is tried.
        """
        if is_hopeless:
            hinted = self._with_hints(group)
            helps = hinted is not group and self.proof.fault([hinted]) is None
            return (hinted if helps else None), set()
        for is_apart in (False, True):
            changed, names, is_mixed = self._stepwise(group, fault, others, is_apart)
            if changed is not None or not is_mixed:
                break
        return changed, names

    def _stepwise(
        self, group: PruningGroup, fault: CutFault, others: Sequence[PruningGroup], is_apart: bool
    ) -> tuple[PruningGroup | None, set[str], bool]:
        """Return as :meth:`_grown` does, and whether several numbers were taken at once, of which some may be wrong.

        Args:
            group: to be cut.
            fault: what goes wrong.
            others: it may be coupled with.
            is_apart: whether numbers are tried one by one before several at once.
        """
        names, is_mixed = set[str](), False
        for _ in range(_ROUNDS):
            if self.proof.is_over or group.num_channels < 2:
                break
            free = [each for each in others if each.name not in names]
            for changed, taken in self._changes(group, fault, free, is_apart):
                found = self._fault_of(changed, group, taken)
                if found is None:
                    self._remember(changed)
                    return changed, names | taken, is_mixed
                if found.is_further_than(fault):
                    is_mixed |= not taken and len(changed.members) > len(group.members) + 1
                    group, fault, names = changed, found, names | taken
                    self.proof.alias.update(dict.fromkeys(taken, group.name))
                    break
            else:
                break
        for name in names:
            self.proof.alias.pop(name, None)
        return None, set(), is_mixed

    def _fault_of(self, changed: PruningGroup, group: PruningGroup, taken: set[str]) -> CutFault | None:
        """Return why a changed group cannot be cut, ``None`` if it can; the others that it takes are then of it."""
        alias = self.proof.alias
        alias.update(dict.fromkeys(taken, group.name))
        found = self.proof.fault_in([changed], Draw(next(filter(None, draws([changed]))), "equals"))
        if found is not None:
            for name in taken:
                del alias[name]
        return found

    def _changes(
        self, group: PruningGroup, fault: CutFault, others: Sequence[PruningGroup], is_apart: bool
    ) -> Iterator[tuple[PruningGroup, set[str]]]:
        """Yield changes of a group: numbers, then couplings, the nearest first, each with the groups that it takes."""
        near = fault.numbers or tuple(_around(self.proof.specimen.network, group))
        tried = [self._answered(group), *near[:1], self._namesakes(group, near[:1]), self._hinted(group), *near[1:]]
        alone = [(each,) for numbers in near if len(numbers) > 1 for each in numbers]
        tried = [*alone, *tried] if is_apart else [*tried, *alone]
        tried += [*fault.shares, *((each,) for numbers in fault.shares for each in numbers)]
        for changed in dict.fromkeys(_with(group, numbers) for numbers in tried):
            if changed is not group:
                yield changed, set()
        for other in others[:_NEIGHBOURS]:
            yield merge(group, [other]), {other.name}

    def _answered(self, group: PruningGroup) -> tuple[Member, ...]:
        """Return the numbers that stand where those stood that a like of the group needed."""
        network, answers = self.proof.specimen.network, self.answers.get(likeness_of(group), set())
        found = list[Member]()
        for path in _surroundings(network, group) if answers else ():
            sides = {(side, width) for name, side, width in answers if name == without_digits(path)}
            near = members_for(network, path, group, {name_of(side) for side, _ in sides}, with_shares=True)
            found += [number for number in near if (number.side, number.width) in sides]
        return tuple(found)

    def _namesakes(self, group: PruningGroup, near: Sequence[tuple[Member, ...]]) -> tuple[Member, ...]:
        """Return the numbers around a group that are called, and as large, as those nearest a fault.

        A slice of the wrong width may do no harm where it is taken, and fail in the next block that adds to a stream.
        """
        network = self.proof.specimen.network
        wanted = {(each.side, sizes_of(network, each.module)[each.side]) for numbers in near for each in numbers}
        names = {name_of(side) for side, _ in wanted}
        around = (each for path in _surroundings(network, group) for each in members_for(network, path, group, names))
        return tuple(each for each in around if (each.side, sizes_of(network, each.module)[each.side]) in wanted)

    def _hinted(self, group: PruningGroup) -> tuple[Member, ...]:
        """Return the numbers around a group that bear the names of those that other groups needed."""
        network = self.proof.specimen.network
        found = list[Member]()
        for path in _surroundings(network, group):
            names = self.hints.get(type(network.get_submodule(path)))
            found += members_for(network, path, group, names) if names else ()
        return tuple(found)

    def _remember(self, group: PruningGroup) -> None:
        network, answers = self.proof.specimen.network, self.answers.setdefault(likeness_of(group), set())
        for member in group.members:
            if member.side.startswith(NUMBER):
                self.hints.setdefault(type(network.get_submodule(member.module)), set()).add(name_of(member.side))
                answers.add((without_digits(member.module), member.side, member.width))


def _with(group: PruningGroup, numbers: Iterable[Member]) -> PruningGroup:
    """Return a group with more numbers, the group itself if it has them all."""
    fresh = tuple(each for each in numbers if each not in group.members)
    return replace(group, members=(*group.members, *fresh)) if fresh else group


def _kind_of(group: PruningGroup, fault: CutFault) -> tuple[Likeness, str]:
    """Return what groups have in common that fail alike."""
    return likeness_of(group), without_digits(fault.reason)


def _around(network: nn.Module, group: PruningGroup) -> Iterator[tuple[Member, ...]]:
    """Yield the numbers of the modules around a group's layers, for a pass that does not fail but is wrong."""
    for path in _surroundings(network, group):
        numbers = members_for(network, path, group)
        if numbers:
            yield numbers


def _surroundings(network: nn.Module, group: PruningGroup) -> list[str]:
    """Return the paths of the modules that hold a group's layers, from the inside, each once."""
    seen = dict[str, None]()
    for member in group.members:
        path = member.module
        while path:
            path = path.rpartition(".")[0]
            seen.setdefault(path)
    return [path for path in seen if kind_of(network.get_submodule(path)) is None]


def merge(group: PruningGroup, others: Iterable[PruningGroup]) -> PruningGroup:
    """Return groups of equally many channels as one: the first channel of each goes with the first of the others."""
    members, products, is_residual = group.members, group.products, group.is_residual
    for other in others:
        members, products = (*members, *other.members), (*products, *other.products)
        is_residual = is_residual or other.is_residual
    return replace(group, members=members, products=products, is_residual=is_residual)
