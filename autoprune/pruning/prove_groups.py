"""The proof of groups: they are cut in a copy, which must compute what the masked twin computes.

A trace may be wrong, or know too little: what is proved here is what will happen. Every group loses channels of its
own number, in several draws, so that two groups whose numbers must agree cannot pass by luck; and the cut network also
runs in training mode, with the layers that only training uses.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from autoprune.core.channel_groups import FrozenGroup, PruningGroup
from autoprune.pruning.cut_plan import CutPlan, plan_cut
from autoprune.pruning.faults import CutFault, fault_of
from autoprune.pruning.light_copy import light_copy
from autoprune.pruning.propose_groups import ChannelOf
from autoprune.pruning.surgery import shrink, zeroed
from autoprune.pruning.tracing.loss_flow import tensors_in
from autoprune.pruning.tracing.statistics import Statistic, WithoutRemoved

ROUNDINGS = 100  # of the output; sums in another order differ by about three
TRAINING_ROUNDINGS = 1e-3  # of the output; statistics of two images enlarge roundings
LARGEST_ROUNDING = 1e-6  # of the output; what is larger is never taken for one
LEVELS = 4  # how many different shares of its channels a group loses over the draws

RemovedChannels = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Specimen:
    """A network as the proof sees it.

    Attributes:
        network: in eval mode, no channel of which is silent.
        example: its input, shape ``(N, *input_shape)``.
        expected: its output.
        in_training: its outputs in training mode, twice, drawn with the same seed and another.
    """

    network: nn.Module
    example: Tensor
    expected: Tensor
    in_training: tuple[list[Tensor], list[Tensor]]

    @property
    def is_random_in_training(self) -> bool:
        """Return whether training draws random numbers, as dropout does, so that no two answers are alike."""
        return not all(torch.equal(a, b) for a, b in zip(*self.in_training, strict=True))


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

    def all(self, groups: Sequence[PruningGroup]) -> tuple[list[PruningGroup], list[tuple[PruningGroup, CutFault]]]:
        """Prove all groups at once; if that fails, each half by itself, and then what is left together."""
        if not groups:
            return [], []
        if (fault := self.fault(groups)) is None:
            return list(groups), []
        if len(groups) == 1:
            return [], [(groups[0], fault)]
        if self.is_over:
            return [], [(group, fault) for group in groups]
        half = len(groups) // 2
        proved, failed = self.all(groups[:half])
        more, also_failed = self.all(groups[half:])
        together = [*proved, *more]
        if proved and more and (fault := self.fault(together)) is not None:
            apart = CutFault(f"can be cut only while others are not: {fault.reason}")
            return [], [*failed, *also_failed, *((group, apart) for group in together)]
        return together, [*failed, *also_failed]

    @property
    def is_over(self) -> bool:
        """Return whether the time is used up."""
        return time.process_time() > self.deadline

    def fault(self, groups: Sequence[PruningGroup]) -> CutFault | None:
        """Return what goes wrong when these groups are cut, ``None`` if nothing does."""
        if self.is_over:
            return CutFault(f"not proved within {self.seconds:g} s")
        for number, removed in enumerate(draws(groups)):
            found = self._fault_of(groups, removed, with_training=number == 0)
            if found is not None:
                return found
        return None

    def _fault_of(
        self, groups: Sequence[PruningGroup], removed: RemovedChannels, with_training: bool
    ) -> CutFault | None:
        specimen = self.specimen
        try:
            cut = plan_cut(specimen.network, groups, removed)
            small = shrink(specimen.network, cut, light_copy)
            with torch.no_grad():
                found = small(specimen.example)
        except Exception as error:  # the user's own forward may raise anything
            return fault_of("its forward pass fails once it is cut", error, specimen.network, groups, self.begun)
        if found.shape != specimen.expected.shape:
            return CutFault("the output changes its shape once it is cut")
        twin = zeroed(specimen.network, cut, light_copy)
        wanted = self._masked_answer(twin, removed, specimen.example)
        difference = float((found - wanted).abs().max())
        if not difference <= self._tolerance(twin, removed, wanted, difference):
            return CutFault(f"cutting it is not the same as zeroing its channels (outputs differ by {difference:.1e})")
        return self._training_fault(groups, cut, small) if with_training else None

    def _masked_answer(self, twin: nn.Module, removed: RemovedChannels, example: Tensor) -> Tensor:
        with torch.no_grad(), WithoutRemoved(self.statistics, self._is_removed(removed)):
            answer: Tensor = twin(example)
        return answer

    def _tolerance(self, twin: nn.Module, removed: RemovedChannels, wanted: Tensor, difference: float) -> float:
        """Return by how much two answers may differ: by roundings, which a deep network may enlarge.

        By how much it does shows when its input is changed by a rounding.
        """
        specimen = self.specimen
        scale = float(torch.maximum(specimen.expected.abs().max(), wanted.abs().max()))
        strict = ROUNDINGS * self.rounding * scale
        if difference <= strict or difference > LARGEST_ROUNDING * scale or not specimen.example.is_floating_point():
            return strict
        noise = torch.rand(specimen.example.shape, generator=torch.Generator().manual_seed(0)).to(specimen.example)
        near = self._masked_answer(twin, removed, specimen.example * (1 + self.rounding * (noise - 0.5)))
        return max(strict, ROUNDINGS * float((near - wanted).abs().max()))

    def _is_removed(self, removed: RemovedChannels) -> Callable[[int], bool]:
        gone = {(group, channel) for group, channels in removed.items() for channel in channels}

        def is_removed(atom: int) -> bool:
            group, channel = self.channel_of.get(atom, ("", 0))
            return (self.alias.get(group, group), channel) in gone

        return is_removed

    def _training_fault(self, groups: Sequence[PruningGroup], cut: CutPlan, small: nn.Module) -> CutFault | None:
        specimen = self.specimen
        try:
            found = training_answers(small, specimen.example, 0)
        except Exception as error:  # the user's own forward may raise anything
            return fault_of(
                "its forward pass fails in training mode once it is cut", error, specimen.network, groups, self.begun
            )
        if [each.shape for each in found] != [each.shape for each in specimen.in_training[0]]:
            return CutFault("an output of training mode changes its shape")
        if specimen.is_random_in_training or self.statistics:
            return None
        wanted = training_answers(zeroed(specimen.network, cut, light_copy), specimen.example, 0)
        for one, other, dense in zip(found, wanted, specimen.in_training[0], strict=True):
            if not float((one - other).abs().max()) <= TRAINING_ROUNDINGS * float(dense.abs().max()):
                return CutFault("cutting it is not the same as zeroing its channels in training mode")
        return None


def training_answers(network: nn.Module, example: Tensor, seed: int) -> list[Tensor]:
    """Return all real tensors that a network returns in training mode; it is changed, as training changes it."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        answer = network.train()(example)
    return [tensor for tensor in tensors_in(answer) if tensor.is_floating_point() and tensor.numel()]


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
