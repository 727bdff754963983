"""The screening of a study: hundreds of networks looked at before its first trial, stored round by round.

Done once by whoever prepares the study, and for a further budget by the first run that asks for it; workers that wait
for it take part. Every network is refitted in closed form; for every eight of them one promising one gets a whole
compensation pass, which says what the closed form of the others is worth. What a round looks at follows from the rounds
before it, never from a clock or from how many take part; a kill loses one round, and the same command goes on to the
same file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, cast

from autoprune.analysis.foretelling import estimated_rises
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.notify import Notify
from autoprune.core.screened import ScreenedNetwork, Screening
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.screening.budget_ladder import ScreeningPart
from autoprune.search.screening.bulk_proposals import BulkProposal, BulkProposals
from autoprune.search.screening.look import LOOKS, Looker, screening_item
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.screened_file import add_record, begin_screening, read_screening

ROUND = 16  # first looks that nothing is learnt between, so that workers seldom wait for one another
FIRST_FOR_SECOND = 8  # first looks for every second one, which takes several times as long
SHARE_OF_SECOND = 6  # at most one in six networks is looked at twice,
SHARE_OF_FEW, BESIDE = 3, 4  # or one in three, up to one for each budget and so many more
TOGETHER = 8  # last second looks at a time, for the same reason
TOLD_EVERY = 25  # networks


@dataclass
class Screener:
    """What brings a study's screening to its end.

    Attributes:
        folder: where it is stored.
        proposals: what is looked at.
        looker: called once, when there is something to look at: preparing it takes a while.
        costs: closed-form costs, with a predicted latency where it is traded.
        notify: called with a sentence now and then.
        settings: what decides what is seen; a file of other settings is begun anew.
        work: by which other workers take part.
    """

    folder: StudyFolder
    proposals: BulkProposals
    looker: Callable[[], Looker]
    costs: Projector
    notify: Notify
    settings: JsonObject
    work: DividedWork = field(default_factory=DividedWork)
    _networks: list[ScreenedNetwork] = field(default_factory=list, init=False)
    _taken: dict[str, int] = field(default_factory=dict, init=False)
    _looker: Looker | None = field(default=None, init=False)

    def screen(self, parts: Sequence[ScreeningPart]) -> tuple[ScreenedNetwork, ...]:
        """Look at everything of some parts that was not looked at yet, and return all networks of the file.

        Raises:
            StudyError: if the file is damaged, or cannot be written.
            AutopruneError: if a network cannot be cut or run.
        """
        self._open()
        for part in parts:
            while (taken := self._taken.get(part.name, 0)) < part.steps:
                until = min(taken + ROUND, part.steps)
                self._round(part, until, self._owed(part), self._proposed(part, range(taken, until)))
            while owed := self._owed(part) or self._last_owed(part):
                self._round(part, part.steps, owed, [])
        return tuple(self._networks)

    def _open(self) -> None:
        known = read_screening(self.folder.screened)
        if known.settings != self.settings:
            begin_screening(self.folder.screened, self.settings)
            known = Screening(self.settings)
        self._networks, self._taken = list(known.networks), dict(known.taken)

    def _proposed(self, part: ScreeningPart, steps: range) -> list[ScreenedNetwork]:
        """Return the networks of some steps that nobody has looked at; a step without anything new is left out."""
        proposed = list[ScreenedNetwork]()
        for step in steps:
            made = self.proposals.propose(part, step, self._networks, {one.kept for one in proposed})
            if made is not None:
                proposed.append(self._unseen(len(self._networks) + len(proposed), part, step, made))
        return proposed

    def _unseen(self, number: int, part: ScreeningPart, step: int, made: BulkProposal) -> ScreenedNetwork:
        costs = self.costs.cost.measure(made.counts)
        return ScreenedNetwork(
            number, part.name, step, made.origin, made.counts, made.level.budget, costs, closed_form=float("nan")
        )

    def _round(
        self, part: ScreeningPart, taken: int, again: Sequence[ScreenedNetwork], new: Sequence[ScreenedNetwork]
    ) -> None:
        """Look again at some networks and for the first time at others, whoever does it, and store what was seen."""
        items = [screening_item("compensated", one.counts) for one in again]
        items += [screening_item("closed_form", one.counts) for one in new]
        found = list(self.work.results(LOOKS, items, lambda item: self._look().seen_of(item)))
        seen = [_with_second_look(one, result) for one, result in zip(again, found, strict=False)]
        fresh = [
            replace(one, closed_form=cast(float, result["rise"]))
            for one, result in zip(new, found[len(again) :], strict=True)
        ]
        looks = [one.refit_record() for one in seen] + [one.to_json() for one in fresh]
        add_record(self.folder.screened, Screening.round_record(part.name, taken, looks))
        self._taken[part.name] = taken
        for one in seen:
            self._networks[one.number] = one
        before, now = len(self._networks) // TOLD_EVERY, (len(self._networks) + len(fresh)) // TOLD_EVERY
        self._networks += fresh
        if now > before:
            self.notify(f"looked at {len(self._networks)} networks without training")

    def _owed(self, part: ScreeningPart) -> list[ScreenedNetwork]:
        """Return what is owed a second look, one for every eight first ones: the budgets of the part take turns.

        By turns it is the network that is expected to be nearest to the dense one, and the nearest by the closed form
        among those that lack blocks, of which the closed form thinks too ill.
        """
        budgets = list(dict.fromkeys(_text(level.budget) for level in part.levels))
        first, second = self._counted(part)
        owed = list[ScreenedNetwork]()
        for turn in range(second, first // FIRST_FOR_SECOND):
            order = [budgets[(turn + offset) % len(budgets)] for offset in range(len(budgets))]
            waiting = next((found for budget in order if (found := self._waiting(part, budget, owed))), [])
            shallow = [one for one in waiting if one.counts.dropped_blocks] if turn // len(budgets) % 2 else []
            if waiting:
                owed.append(min(shallow, key=_by_closed_form) if shallow else waiting[0])
        return owed

    def _last_owed(self, part: ScreeningPart) -> list[ScreenedNetwork]:
        """Return what is expected to be the nearest of each budget and was not looked at twice, up to a share of all.

        What a second look says may make another one the nearest; where few are left, the next in line come along.
        """
        first, second = self._counted(part)
        budgets = dict.fromkeys(_text(one.budget) for one in self._networks if one.part == part.name)
        most = max(first // SHARE_OF_SECOND, min(first // SHARE_OF_FEW, len(budgets) + BESIDE))
        lines = [self._in_line(part, budget) for budget in budgets]
        undecided = [[one for one in line if one.compensated is None] for line in lines if line[0].compensated is None]
        turns = [one for turn in zip_longest(*undecided) for one in turn if one is not None]
        return turns[: min(max(TOGETHER, len(undecided)), max(0, most - second))]

    def _in_line(self, part: ScreeningPart, budget: str) -> list[ScreenedNetwork]:
        """Return the networks of a budget, those first that are expected to be nearest to the dense one."""
        rises = estimated_rises(self._networks).tolist()
        of_budget = [one for one in self._networks if one.part == part.name and _text(one.budget) == budget]
        return sorted(of_budget, key=lambda one: (rises[one.number], one.number))

    def _counted(self, part: ScreeningPart) -> tuple[int, int]:
        """Return how many networks of a part were looked at, and how many of them twice."""
        of_part = [one for one in self._networks if one.part == part.name]
        return len(of_part), sum(one.compensated is not None for one in of_part)

    def _waiting(self, part: ScreeningPart, budget: str, taken: Collection[ScreenedNetwork]) -> list[ScreenedNetwork]:
        """Return those of a budget in line that were looked at once, without those that have their turn already."""
        numbers = {one.number for one in taken}
        line = self._in_line(part, budget)
        return [one for one in line if one.compensated is None and one.number not in numbers]

    def _look(self) -> Looker:
        if self._looker is None:
            self._looker = self.looker()
        return self._looker


def _with_second_look(one: ScreenedNetwork, seen: Any) -> ScreenedNetwork:
    return one.with_refit({"compensated": seen["rise"], "quality": seen["quality"]})


def _by_closed_form(one: ScreenedNetwork) -> tuple[float, int]:
    return one.closed_form, one.number


def _text(budget: Budget) -> str:
    return str(budget.to_json())
