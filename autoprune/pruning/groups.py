"""Groups of channels that must go together: found by tracing, and each proved by cutting it.

The trace proposes groups (``propose_groups.py``), and a trial cut proves them (``prove_groups.py``): every group is cut
at random in a copy, which must compute exactly what the dense network computes with those channels zeroed. What fails
is tried with the numbers that modules keep, and coupled with what it is tied to (``couple_groups.py``); what fails
still is frozen, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import FrozenGroup, PruningGroup, Side
from autoprune.models.calling.answers import answer_of
from autoprune.models.calling.inputs import Inputs
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.couple_groups import Repair
from autoprune.pruning.layers.kinds import kind_of
from autoprune.pruning.make_specimen import specimen_of
from autoprune.pruning.number_attributes import NUMBER
from autoprune.pruning.propose_groups import ProposedGroups, propose_groups, unnamed_layers
from autoprune.pruning.prove_groups import Proof, Specimen, frozen_by
from autoprune.pruning.sift_groups import Sieve, Unproved
from autoprune.pruning.tracing.rule_helpers import Fold, FoldKey, Turns
from autoprune.pruning.tracing.tracer import OutOfTime
from autoprune.pruning.tracing.whole_trace import OUTPUT, Trace, trace

SECONDS = 120.0
_CHOICES = 3  # of the parts that channels are folded into: as usual, the first, and one between


@dataclass(frozen=True)
class Groups:
    """The groups found in a network, in network order.

    Attributes:
        cuttable: groups proved by a trial cut.
        frozen: groups that stay whole, each with its reason.
    """

    cuttable: tuple[PruningGroup, ...]
    frozen: tuple[FrozenGroup, ...]


def find_groups(network: nn.Module, example: object, seconds: float = SECONDS) -> Groups:
    """Find and prove every group of coupled channels; the network is not touched.

    Args:
        network: the dense network, on any device.
        example: one batch of inputs, as :meth:`Inputs.of` takes it: a tensor, a tuple of arguments, a dictionary of
            them by name; gives the shapes, and is used for the proof.
        seconds: of processor time that this may take; what is not proved by then is frozen, with that as the reason.

    Raises:
        ModelError: if the network does not run on the example, in evaluation or in training mode, or cannot be copied,
            as a ScriptModule.
    """
    deadline = time.process_time() + seconds
    specimen = specimen_of(network, Inputs.of(example))
    try:
        best = _Attempt(specimen, deadline, seconds)
        best = _best_turned(best, _Attempt.turns_to, _Attempt.is_better_than)
        best = _best_turned(best, _Attempt.turns_to_heads, _Attempt.has_more_heads_than)
        best.couple()
    except OutOfTime:
        return Groups((), tuple(_out_of_time(specimen.network, seconds)))
    return best.groups()


def _best_turned(
    best: _Attempt, turns_of: Callable[[_Attempt, int], Turns], is_better: Callable[[_Attempt, _Attempt], bool]
) -> _Attempt:
    """Return the best of some attempts, each with folds turned to their next choice.

    Args:
        best: the first.
        turns_of: returns the folds of an attempt that are to be turned to a choice.
        is_better: tells whether the first of two attempts is the better one.
    """
    for choice in range(1, _CHOICES):
        turns = turns_of(best, choice)
        if turns:
            other = best.again({**best.turns, **turns})
            best = other if is_better(other, best) else best
    return best


@dataclass(frozen=True)
class Glimpse:
    """What one trace shows of a network, for a fraction of the time that :func:`find_groups` takes.

    Attributes:
        proposed: groups that may be cut, not proved yet, and those that are frozen before any proof.
        can_cut: proves one of them alone.
    """

    proposed: Groups
    can_cut: Callable[[PruningGroup], bool]


def glimpse_groups(network: nn.Module, example: object, seconds: float = SECONDS) -> Glimpse:
    """Return what may be cut in a network by the look of it; arguments and errors are those of :func:`find_groups`."""
    deadline = time.process_time() + seconds
    specimen = specimen_of(network, Inputs.of(example))
    try:
        seen = _sight(specimen, deadline, seconds, {})
    except OutOfTime:
        return Glimpse(Groups((), tuple(_out_of_time(specimen.network, seconds))), lambda group: False)
    proposed = Groups(seen.proposals.groups, seen.proposals.frozen)
    return Glimpse(proposed, lambda group: seen.proof.fault([group]) is None)


@dataclass(frozen=True)
class _Sight:
    """One trace, what it proposes, and what proves that."""

    trace: Trace
    proposals: ProposedGroups
    proof: Proof


def _sight(specimen: Specimen, deadline: float, seconds: float, turns: Turns) -> _Sight:
    seen = _trace(specimen, max(0.0, deadline - time.process_time()), turns)
    proposals, findings = propose_groups(specimen.network, seen), seen.findings
    rounding = torch.finfo(torch.float64 if seen.is_exact else torch.float32).eps
    proof = Proof(specimen, rounding, findings.statistics, proposals.channel_of, deadline, seconds, findings.begun)
    return _Sight(seen, proposals, proof)


class _Attempt:
    """One trace with its proof.

    Args:
        specimen: the network.
        deadline: ``time.process_time()`` after which nothing more is proved.
        seconds: how long that was, for messages.
        turns: folds of channels in which another part gets shorter than usual.
    """

    def __init__(self, specimen: Specimen, deadline: float, seconds: float, turns: Turns | None = None) -> None:
        self.specimen, self.turns = specimen, turns or {}
        self.again = partial(_Attempt, specimen, deadline, seconds)  # with other turns
        seen = _sight(specimen, deadline, seconds, self.turns)
        self.trace, self.proposals, self.proof = seen.trace, seen.proposals, seen.proof
        self.sieve = Sieve(self.proof)
        self.repair = Repair(self.sieve)
        self.proved, self.failed = list[PruningGroup](), list[Unproved]()
        self._prove()

    def _prove(self) -> None:
        """Prove all groups at once, or else those that no fixed size has touched and the others apart."""
        groups = self.proposals.groups
        if self.proof.fault(groups) is None:
            self.proved = list(groups)
            return
        suspects = self._touched((*(fold.labels for fold in self.trace.findings.folds), *self.trace.findings.parts))
        sound, failed = self.sieve.sift([group for group in groups if group.name not in suspects])
        doubtful, also_failed = self.sieve.sift([group for group in groups if group.name in suspects])
        helped, self.failed = self.repair.with_numbers(self._in_order([*failed, *also_failed]))
        self.proved = sound
        self._add([*doubtful, *helped])

    def _in_order(self, failed: Iterable[Unproved]) -> list[Unproved]:
        return sorted(failed, key=lambda each: self.proposals.order[each[0].name])

    def couple(self) -> None:
        """Couple what cannot be cut alone with others whose numbers must agree."""
        coupled, self.failed = self.repair.coupled(self.failed)
        self._add(coupled)

    def _add(self, changed: Sequence[PruningGroup]) -> None:
        """Prove groups that were changed together with the others."""
        if changed:
            self.proved, apart = self.sieve.sift([*self.proved, *changed])
            self.failed = [*self.failed, *apart]

    def turns_to(self, choice: int) -> dict[FoldKey, int]:
        """Return folds that are to be turned to their next choice: of channels that could not be cut, or followed.

        Their likes are turned to the same part. What the code leaves open is turned only if nothing else of its likes
        is lost.
        """
        lost, folds = {group.name for group, _ in self.failed}, self.trace.findings.folds
        at_fault = [
            fold
            for fold in folds
            if choice < len(fold.choices)
            and (not lost.isdisjoint(self._touched([fold.labels])) or self._is_lost(fold.labels))
        ]
        return self._turned(sorted(at_fault, key=lambda fold: not fold.is_open), choice)

    def turns_to_heads(self, choice: int) -> dict[FoldKey, int]:
        """Return folds that are to be turned to their next choice: of channels that every head of attention has."""
        inside, found = self._inside_heads, (fold for fold in self.trace.findings.folds if choice < len(fold.choices))
        return self._turned((fold for fold in found if not inside.isdisjoint(self._touched([fold.labels]))), choice)

    def _turned(self, folds: Iterable[Fold], choice: int) -> dict[FoldKey, int]:
        """Return some folds and their likes, turned to the same part; of unequal ones the last says which."""
        parts = {fold.likeness: fold.choices[choice] for fold in folds}
        return {fold.key: parts[fold.likeness] for fold in self.trace.findings.folds if fold.likeness in parts}

    @property
    def _inside_heads(self) -> set[str]:
        """Return the groups of channels that end in a product of two batches of activations."""
        return self._touched(self.trace.findings.contracted)

    def has_more_heads_than(self, other: _Attempt) -> bool:
        """Return whether fewer heads are cut inside, and as much of the network can be cut."""
        is_less_inside = len(self._inside_heads) < len(other._inside_heads)
        return is_less_inside and self._whole <= other._whole and _sides_of(self.proved) >= _sides_of(other.proved)

    def _is_lost(self, labels: Tensor) -> bool:
        """Return whether some channels could not be followed, or are all coupled with one another."""
        channels, place = self.trace.channels, self.proposals.channel_of
        atoms = [atom for atom in torch.unique(labels).tolist() if atom]
        reasons = ((atom, channels.reason(atom)) for atom in atoms)
        return any(channels.find(atom) not in place if why is None else why != OUTPUT for atom, why in reasons)

    def _touched(self, labels: Iterable[Tensor]) -> set[str]:
        """Return the groups to which some channels belong."""
        find, place = self.trace.channels.find, self.proposals.channel_of
        atoms = {atom for each in labels for atom in torch.unique(each).tolist()}
        return {place[root][0] for root in map(find, atoms) if root in place}

    def is_better_than(self, other: _Attempt) -> bool:
        """Return whether more of the network can be cut."""
        mine, others = self._whole, other._whole
        cut, had = _sides_of(self.proved), _sides_of(other.proved)
        return (mine < others and len(self.proved) >= len(other.proved)) or (mine == others and cut > had)

    @property
    def _whole(self) -> int:
        """Return how many groups stay whole."""
        return len(self.failed) + len(self.proposals.frozen)

    def groups(self) -> Groups:
        """Return what was found, in network order, every layer with parameters among it."""
        network, order = self.specimen.network, self.proposals.order
        frozen = [*self.proposals.frozen, *(frozen_by(group, fault) for group, fault in self.failed)]
        unnamed = unnamed_layers(network, self.proved, frozen, self.trace.findings.used)
        return Groups(
            tuple(sorted(self.proved, key=lambda group: order[group.name])),
            (*sorted(frozen, key=lambda group: order[group.name]), *unnamed),
        )


def _sides_of(groups: Iterable[PruningGroup]) -> set[tuple[str, Side]]:
    """Return the sides of layers that groups cut; numbers aside."""
    members = (member for group in groups for member in group.members)
    return {(member.module, member.side) for member in members if not member.side.startswith(NUMBER)}


def _trace(specimen: Specimen, seconds: float, turns: Turns) -> Trace:
    training = copy_network(specimen.network).train(), specimen.example.first(2)
    passed = specimen.copied(specimen.network)  # a pass may leave its mark, as weights assigned in forward do
    alone = specimen.example.first(1)
    try:
        return trace(passed, alone, training, seconds, turns)
    except OutOfTime:
        raise
    except Exception:  # the user's own forward may raise anything
        answer_of(specimen.network, alone)  # raises if it does not run on one example
        raise


def _out_of_time(network: nn.Module, seconds: float) -> Iterable[FrozenGroup]:
    for path, module in network.named_modules():
        kind = kind_of(module)
        if kind is not None and "in" in kind.sizes(module):
            channels = kind.sizes(module).get("out", 0)
            yield FrozenGroup(path, channels, f"the network could not be traced within {seconds:g} s")
