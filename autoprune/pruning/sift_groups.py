"""Which of many groups can be cut: those that cannot are singled out with few trial cuts.

A trial cut that fails says that one of its groups cannot be cut, not which. Groups are halved, with their likes side
by side, because what fails in one block of a network fails in the others too. While halving, each set is tried with the
draw that failed; all draws, and training, follow for what is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.channel_groups import PruningGroup
from autoprune.pruning.faults import CutFault
from autoprune.pruning.number_attributes import NUMBER
from autoprune.pruning.prove_groups import Proof

Unproved = tuple[PruningGroup, CutFault]
Likeness = frozenset[tuple[str, str]]


def likeness_of(group: PruningGroup) -> Likeness:
    """Return what groups of a kind have in common: the names of their layers, numbers aside, and the sides."""
    members = (member for member in group.members if not member.side.startswith(NUMBER))
    return frozenset((without_digits(member.module), member.side) for member in members)


def without_digits(text: str) -> str:
    """Return a path or a message as its likes have it.

    >>> without_digits("layers.12.conv1")
    'layers..conv'
    """
    return re.sub(r"\d+", "", text)


@dataclass(frozen=True)
class Sieve:
    """The way to the largest set of groups that can be cut together.

    Attributes:
        proof: of one network's groups.
    """

    proof: Proof

    def sift(self, groups: Sequence[PruningGroup]) -> tuple[list[PruningGroup], list[Unproved]]:
        """Return the groups that can be cut, proved together, and those that cannot."""
        left, failed = list(groups), list[Unproved]()
        while left:
            fault = self.proof.fault(left)
            if fault is None:
                break
            likes = self._by_likeness(left)
            passed, at_fault = self._halved(likes, fault)
            if not at_fault:  # each half runs by itself; is one wrong?
                passed, at_fault = self._halved(likes, fault.in_full)
            if not at_fault:
                proved, at_fault = self._thoroughly(left)
                return proved, [*failed, *at_fault]
            left, failed = passed, [*failed, *at_fault]
        return left, failed

    def _by_likeness(self, groups: Sequence[PruningGroup]) -> list[list[PruningGroup]]:
        likes: dict[Likeness, list[PruningGroup]] = {}
        for group in groups:
            likes.setdefault(likeness_of(group), []).append(group)
        return list(likes.values())

    def _halved(
        self, likes: Sequence[Sequence[PruningGroup]], fault: CutFault
    ) -> tuple[list[PruningGroup], list[Unproved]]:
        """Return the groups that the draw of a fault does not fail, and the others, of groups that fail together."""
        groups = [group for each in likes for group in each]
        if fault.draw is None or len(groups) == 1:
            return [], [(group, fault) for group in groups]
        if len(likes) == 1:
            return self._among_likes(likes[0], fault)
        passed, failed = list[PruningGroup](), list[Unproved]()
        for part in (likes[: len(likes) // 2], likes[len(likes) // 2 :]):
            inside = [group for each in part for group in each]
            found = self._again(inside, fault)
            good, bad = (inside, []) if found is None else self._halved(part, found)
            passed, failed = [*passed, *good], [*failed, *bad]
        return passed, failed

    def _among_likes(
        self, groups: Sequence[PruningGroup], fault: CutFault
    ) -> tuple[list[PruningGroup], list[Unproved]]:
        """Take away one by one while the first fails, because then most will; halve otherwise."""
        waiting, failed = list(groups), list[Unproved]()
        while len(waiting) > 1 and not self.proof.is_over:
            alone = self._again(waiting[:1], fault)
            if alone is None:
                half = len(waiting) // 2
                good, bad = self._halved([waiting[:half], waiting[half:]], fault)
                return good, [*failed, *bad]
            failed.append((waiting.pop(0), alone))
            rest = self._again(waiting, fault)
            if rest is None:
                return waiting, failed
            fault = rest
        return [], [*failed, *((group, fault) for group in waiting)]

    def _again(self, groups: Sequence[PruningGroup], fault: CutFault) -> CutFault | None:
        """Return what goes wrong for some of the groups in the draw in which a fault showed."""
        return self.proof.fault_in(groups, fault.draw.among(groups)) if fault.draw is not None else fault

    def _thoroughly(self, groups: Sequence[PruningGroup]) -> tuple[list[PruningGroup], list[Unproved]]:
        """Prove each half with all draws, and then what is left together: for faults that one draw does not show."""
        if not groups:
            return [], []
        if (fault := self.proof.fault(groups)) is None:
            return list(groups), []
        if len(groups) == 1 or self.proof.is_over:
            return [], [(group, fault) for group in groups]
        half = len(groups) // 2
        proved, failed = self._thoroughly(groups[:half])
        more, also_failed = self._thoroughly(groups[half:])
        together = [*proved, *more]
        if proved and more and (fault := self.proof.fault(together)) is not None:
            apart = CutFault(f"can be cut only while others are not: {fault.reason}")
            return [], [*failed, *also_failed, *((group, apart) for group in together)]
        return together, [*failed, *also_failed]
