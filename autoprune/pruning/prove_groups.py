"""The proof of groups: they are cut in a copy, which must compute what the masked twin computes.

A trace may be wrong, or know too little: what is proved here is what will happen. Every group loses channels of its
own number, in several draws, so that two groups whose numbers must agree cannot pass by luck; and the cut network also
runs in training mode, with the layers that only training uses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from operator import le

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import FrozenGroup, PruningGroup
from autoprune.models.calling.answers import are_of_one_shape, difference, magnitude
from autoprune.models.calling.inputs import Inputs
from autoprune.models.calling.tensors import tensors_in
from autoprune.models.copying.copy_network import copy_network
from autoprune.pruning.cut_plan import plan_cut
from autoprune.pruning.faults import CutFault, Draw, fault_of
from autoprune.pruning.light_copy import copier_of
from autoprune.pruning.propose_groups import ChannelOf
from autoprune.pruning.surgery import Copier, shrink, zeroed
from autoprune.pruning.tracing.statistics import Statistic, WithoutRemoved

ROUNDINGS = 100  # of the output; sums in another order differ by about three
TRAINING_ROUNDINGS = 1e-3  # of the output; statistics of two images enlarge roundings
LARGEST_ROUNDING = 1e-6  # of the output; what is larger is never taken for one
LEVELS = 8  # how many different shares of its channels a group loses over the draws

RemovedChannels = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Specimen:
    """A network as the proof sees it.

    Attributes:
        network: in eval mode, no channel of which is silent.
        example: its inputs.
        expected: the tensors of its answer.
        in_training: those of its answer in training mode.
        draws_numbers: whether that moved PyTorch's stream of random numbers, as dropout does.
    """

    network: nn.Module
    example: Inputs
    expected: list[Tensor]
    in_training: list[Tensor]
    draws_numbers: bool

    @cached_property
    def copied(self) -> Copier:
        """Return the function that makes the copies that are cut."""
        return copier_of(self.network, shares=True)

    @cached_property
    def is_random_in_training(self) -> bool:
        """Return whether two answers in training mode differ, whatever the network draws its random numbers from."""
        again, _ = training_answers(copy_network(self.network), self.example, 1)
        is_alike = are_of_one_shape(again, self.in_training)
        return not (is_alike and all(torch.equal(a, b) for a, b in zip(again, self.in_training, strict=True)))


@dataclass(frozen=True)
class Proof:
    """The proof of groups of one network.

    Attributes:
        specimen: the network.
        rounding: of the numbers that it computes in.
        statistics: over channels, which the masked twin must take over those that stay.
        channel_of: where each channel of the trace went.
        deadline: ``time.process_time()`` after which nothing more is proved.
        seconds: how long that was, for messages.
        begun: module → when it began in the forward pass of the trace.
        alias: group → the group that it was coupled with.
    """

    specimen: Specimen
    rounding: float
    statistics: Sequence[Statistic]
    channel_of: ChannelOf
    deadline: float
    seconds: float
    begun: Mapping[str, int] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Return whether the time is used up."""
        return time.process_time() > self.deadline

    def fault(self, groups: Sequence[PruningGroup]) -> CutFault | None:
        """Return what goes wrong when these groups are cut, ``None`` if nothing does."""
        for number, removed in enumerate(draws(groups)):
            found = self.fault_in(groups, Draw(removed, "trains" if number == 0 else "equals"))
            if found is not None:
                return found
        return None

    def fault_in(self, groups: Sequence[PruningGroup], draw: Draw) -> CutFault | None:
        """Return what goes wrong in one draw, which says up to where it went well; nothing wrong proves nothing."""
        if self.is_over:
            return CutFault(f"not proved within {self.seconds:g} s")
        if not draw.removed:
            return None
        specimen, removed = self.specimen, draw.removed
        try:
            cut = plan_cut(specimen.network, groups, removed)
            small = shrink(specimen.network, cut, specimen.copied)
            with torch.no_grad():
                answer = tensors_in(specimen.example.run(small))
        except Exception as error:  # the user's own forward may raise anything
            found = fault_of("its forward pass fails once it is cut", error, specimen.network, groups, self.begun)
            return replace(found, draw=Draw(removed, "runs"))
        if draw.until == "runs":
            return None
        masked = partial(zeroed, specimen.network, cut, specimen.copied)
        twin = masked()
        if (unequal := self._inequality(answer, twin, removed)) is not None:
            return replace(unequal, draw=Draw(removed, "equals"))
        if draw.until == "equals" or (untrainable := self._training_fault(groups, small, twin, masked)) is None:
            return None
        return replace(untrainable, draw=draw)

    def _inequality(self, answer: list[Tensor], twin: nn.Module, removed: RemovedChannels) -> CutFault | None:
        wanted = self._masked_answer(twin, removed, self.specimen.example)
        if not are_of_one_shape(answer, wanted):
            return CutFault("the output changes its shape once it is cut")
        apart = [difference(one, other) for one, other in zip(answer, wanted, strict=True)]
        if all(map(le, apart, self._tolerances(twin, removed, wanted, apart))):
            return None
        return CutFault(f"cutting it is not the same as zeroing its channels (outputs differ by {max(apart):.1e})")

    def _masked_answer(self, twin: nn.Module, removed: RemovedChannels, example: Inputs) -> list[Tensor]:
        left_out = (
            WithoutRemoved(twin, self.statistics, self._is_removed(removed)) if self.statistics else nullcontext()
        )
        with torch.no_grad(), left_out:
            return tensors_in(example.run(twin))

    def _tolerances(
        self, twin: nn.Module, removed: RemovedChannels, wanted: list[Tensor], apart: list[float]
    ) -> list[float]:
        """Return by how much each tensor of two answers may differ: by roundings, which a deep network may enlarge.

        By how much it does shows when its input is changed by a rounding.
        """
        specimen = self.specimen
        scales = _scales(specimen.expected, wanted)
        strict = [ROUNDINGS * self.rounding * scale for scale in scales]
        is_large = any(gap > LARGEST_ROUNDING * scale for gap, scale in zip(apart, scales, strict=True))
        if all(map(le, apart, strict)) or is_large or not specimen.example.has_real_numbers:
            return strict
        near = self._masked_answer(twin, removed, self._rounded(specimen.example))
        if not are_of_one_shape(near, wanted):
            return strict
        loose = [ROUNDINGS * difference(one, other) for one, other in zip(near, wanted, strict=True)]
        return [max(pair) for pair in zip(strict, loose, strict=True)]

    def _is_removed(self, removed: RemovedChannels) -> Callable[[int], bool]:
        gone = {(group, channel) for group, channels in removed.items() for channel in channels}

        def is_removed(atom: int) -> bool:
            group, channel = self.channel_of.get(atom, ("", 0))
            return (self.alias.get(group, group), channel) in gone

        return is_removed

    def _training_fault(
        self, groups: Sequence[PruningGroup], small: nn.Module, twin: nn.Module, masked: Callable[[], nn.Module]
    ) -> CutFault | None:
        """Return what goes wrong in training mode.

        Args:
            groups: that were cut.
            small: the cut network, which has run in evaluation mode.
            twin: its masked twin, likewise.
            masked: makes another twin.
        """
        specimen = self.specimen
        try:
            found, _ = training_answers(small, specimen.example, 0)
        except Exception as error:  # the user's own forward may raise anything
            return fault_of(
                "its forward pass fails in training mode once it is cut", error, specimen.network, groups, self.begun
            )
        # a network that draws from elsewhere shows it by answers that differ; asking all would cost a pass
        is_compared = not (self.statistics or (specimen.draws_numbers and specimen.is_random_in_training))
        if not is_compared and are_of_one_shape(found, specimen.in_training):
            return None
        wanted, _ = training_answers(twin, specimen.example, 0)
        if not are_of_one_shape(found, wanted):
            return CutFault("an output of training mode changes its shape")
        if not is_compared:
            return None
        strict = [TRAINING_ROUNDINGS * scale for scale in _scales(specimen.in_training, wanted)]
        if _are_near(found, wanted, strict):
            return None
        if specimen.example.has_real_numbers:  # statistics of two images may make anything of a rounding
            near, _ = training_answers(masked(), self._rounded(specimen.example), 0)
            if are_of_one_shape(near, wanted):
                loose = [ROUNDINGS * difference(one, other) for one, other in zip(near, wanted, strict=True)]
                if _are_near(found, wanted, loose):
                    return None
        if specimen.is_random_in_training:
            return None
        return CutFault("cutting it is not the same as zeroing its channels in training mode")

    def _rounded(self, example: Inputs) -> Inputs:
        """Return inputs that differ by roundings."""
        generator = torch.Generator().manual_seed(0)

        def change(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            noise = torch.rand(tensor.shape, generator=generator).to(tensor)
            return tensor * (1 + self.rounding * (noise - 0.5))

        return example.map(change)


def _scales(dense: Sequence[Tensor], wanted: Sequence[Tensor]) -> list[float]:
    """Return how large the numbers of an answer are; the dense network's count too, where they can be set beside."""
    beside = dense if are_of_one_shape(dense, wanted) else wanted
    return [max(magnitude(one), magnitude(other)) for one, other in zip(beside, wanted, strict=True)]


def _are_near(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerances: Sequence[float]) -> bool:
    pairs = zip(found, wanted, tolerances, strict=True)
    return all(difference(one, other) <= tolerance for one, other, tolerance in pairs)


def training_answers(network: nn.Module, example: Inputs, seed: int) -> tuple[list[Tensor], bool]:
    """Return all real tensors that a network returns in training mode, and whether PyTorch's stream was drawn from.

    The network is changed, as training changes it.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = torch.default_generator.manual_seed(seed).get_state()
        answer = example.run(network.train())
        has_drawn = not torch.equal(torch.default_generator.get_state(), before)
    return [tensor for tensor in tensors_in(answer) if tensor.is_floating_point() and tensor.numel()], has_drawn


def draws(groups: Iterable[PruningGroup]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Yield which channels each group loses, in so many draws that no two groups lose the same share in all of them.

    Groups are numbered, and the digits of a group's number say which share it loses in each draw: none, or a quarter
    to three quarters.
    """
    groups = tuple(groups)
    levels = max(2, min(LEVELS, *(group.num_channels for group in groups), LEVELS))
    digits = next(digits for digits in count(2) if levels**digits > len(groups))
    codes = _codes(len(groups), levels, digits)
    for draw in range(digits):
        yield {
            group.name: _random_channels(group, code[draw] / levels, draw)
            for group, code in zip(groups, codes, strict=True)
            if code[draw]
        }


def _codes(wanted: int, levels: int, digits: int) -> list[tuple[int, ...]]:
    """Return different digits for each of some numbers, never all 0."""
    codes = list[tuple[int, ...]]()
    number = 0
    while len(codes) < wanted:
        code = tuple((number // levels**digit + 1 + digit) % levels for digit in range(digits))
        codes += [code] if any(code) else []
        number += 1
    return codes


def _random_channels(group: PruningGroup, share: float, draw: int) -> tuple[int, ...]:
    """Return some of a group's channels; the same ones at every call."""
    lost = min(group.num_channels - 1, max(1, round(share * group.num_channels)))
    return tuple(sorted(random.Random(f"{group.name} {draw}").sample(range(group.num_channels), lost)))


def frozen_by(group: PruningGroup, fault: CutFault) -> FrozenGroup:
    """Return a group that could not be proved as one that stays whole."""
    return FrozenGroup(group.name, group.num_channels, fault.reason, group.layers)
