"""The screening of a study: hundreds of networks looked at before its first trial, each stored as soon as it is seen.

Done once by whoever prepares the study, and for a further budget by the first run that asks for it. Every network is
refitted in closed form; for every eight of them one promising one gets a whole compensation pass, which says what the
closed form of the others is worth. How many follows from counts in the spec, never from a clock; a kill loses one
network, and the same command goes on to the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from autoprune.analysis.foretelling import estimated_rises
from autoprune.core.budget import Budget
from autoprune.core.json_values import JsonObject
from autoprune.core.notify import Notify
from autoprune.core.screened import ScreenedNetwork, Screening
from autoprune.search.proposals.budget_projection import Projector
from autoprune.search.screening.budget_ladder import ScreeningPart
from autoprune.search.screening.bulk_proposals import BulkProposals
from autoprune.search.screening.look import Looker
from autoprune.study.folder import StudyFolder
from autoprune.study.screened_file import add_record, begin_screening, read_screening

FIRST_FOR_SECOND = 8  # first looks for every second one, which takes several times as long
MOST_SECOND = 3  # at most one in three networks is looked at twice
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
    """

    folder: StudyFolder
    proposals: BulkProposals
    looker: Callable[[], Looker]
    costs: Projector
    notify: Notify
    settings: JsonObject
    _networks: list[ScreenedNetwork] = field(default_factory=list, init=False)
    _looker: Looker | None = field(default=None, init=False)

    def screen(self, parts: Sequence[ScreeningPart]) -> tuple[ScreenedNetwork, ...]:
        """Look at everything of some parts that was not looked at yet, and return all networks of the file.

        Raises:
            StudyError: if the file is damaged, or cannot be written.
            AutopruneError: if a network cannot be cut or run.
        """
        self._open()
        for part in parts:
            for step in range(self._next_step(part), part.steps):
                self._second_looks(part)
                self._first_look(part, step)
            self._second_looks(part)
            self._last_looks(part)
        return tuple(self._networks)

    def _open(self) -> None:
        known = read_screening(self.folder.screened)
        if known.settings != self.settings:
            begin_screening(self.folder.screened, self.settings)
            known = Screening(self.settings)
        self._networks = list(known.networks)

    def _next_step(self, part: ScreeningPart) -> int:
        """Return the first step that was not taken; what was left out at the end is tried again, in vain."""
        return 1 + max((one.step for one in self._networks if one.part == part.name), default=-1)

    def _first_look(self, part: ScreeningPart, step: int) -> None:
        made = self.proposals.propose(part, step, self._networks)
        if made is None:
            return
        one = ScreenedNetwork(
            len(self._networks),
            part.name,
            step,
            made.origin,
            made.counts,
            made.level.budget,
            self.costs.cost.measure(made.counts),
            round(self._look().closed_form(made.counts), 6),
        )
        add_record(self.folder.screened, one.to_json())
        self._networks.append(one)
        if len(self._networks) % TOLD_EVERY == 0:
            self.notify(f"looked at {len(self._networks)} networks without training")

    def _second_looks(self, part: ScreeningPart) -> None:
        """Give the second looks that are owed, one for every eight first ones: the budgets of the part take turns.

        By turns it is the network that is expected to be nearest to the dense one, and the nearest by the closed form
        among those that lack blocks, of which the closed form thinks too ill.
        """
        budgets = list(dict.fromkeys(_text(level.budget) for level in part.levels))
        while True:
            first, second = self._counted(part)
            if second >= first // FIRST_FOR_SECOND:
                return
            order = [budgets[(second + offset) % len(budgets)] for offset in range(len(budgets))]
            waiting = next((found for budget in order if (found := self._waiting(part, budget))), [])
            shallow = [one for one in waiting if one.counts.dropped_blocks] if second // len(budgets) % 2 else []
            if not waiting:
                return
            self._second_look(min(shallow, key=_by_closed_form) if shallow else self._nearest(waiting))

    def _last_looks(self, part: ScreeningPart) -> None:
        """Look again at what is expected to be the nearest of each budget, up to a third of the part's networks."""
        for _ in range(part.steps):
            first, second = self._counted(part)
            of_part = [one for one in self._networks if one.part == part.name]
            budgets = dict.fromkeys(_text(one.budget) for one in of_part)
            best = [self._nearest([one for one in of_part if _text(one.budget) == budget]) for budget in budgets]
            owed = [one for one in best if one.compensated is None]
            if not owed or second >= first // MOST_SECOND:
                return
            self._second_look(owed[0])

    def _counted(self, part: ScreeningPart) -> tuple[int, int]:
        """Return how many networks of a part were looked at, and how many of them twice."""
        of_part = [one for one in self._networks if one.part == part.name]
        return len(of_part), sum(one.compensated is not None for one in of_part)

    def _waiting(self, part: ScreeningPart, budget: str) -> list[ScreenedNetwork]:
        return [
            one
            for one in self._networks
            if one.part == part.name and _text(one.budget) == budget and one.compensated is None
        ]

    def _nearest(self, networks: Sequence[ScreenedNetwork]) -> ScreenedNetwork:
        """Return the network that is expected to be nearest to the dense one after a compensation pass."""
        rises = estimated_rises(self._networks).tolist()
        return min(networks, key=lambda one: (rises[one.number], one.number))

    def _second_look(self, one: ScreenedNetwork) -> None:
        rise, quality = self._look().compensated(one.counts)
        seen = replace(one, compensated=round(rise, 6), quality=quality)
        add_record(self.folder.screened, seen.refit_record())
        self._networks[one.number] = seen

    def _look(self) -> Looker:
        if self._looker is None:
            self._looker = self.looker()
        return self._looker


def _by_closed_form(one: ScreenedNetwork) -> tuple[float, int]:
    return one.closed_form, one.number


def _text(budget: Budget) -> str:
    return str(budget.to_json())
