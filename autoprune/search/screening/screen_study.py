"""The screening of a study: hundreds of networks looked at before its first trial, each stored as soon as it is seen.

Done once by whoever prepares the study, and for a further budget by the first run that asks for it. All networks of a
part are refitted in closed form; then the best few of each level get a whole compensation pass. How many follows from
counts in the spec, never from a clock; a kill loses one network, and the same command goes on to the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

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

SECOND_LOOKS = 0.1  # of a part's networks
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
                self._first_look(part, step)
            for one in self._worth_a_second_look(part):
                self._second_look(one)
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

    def _worth_a_second_look(self, part: ScreeningPart) -> Iterator[ScreenedNetwork]:
        """Yield the best of each level that had no compensation pass, by the closed form."""
        each = max(1, round(SECOND_LOOKS * part.steps / len(part.levels)))
        for budget in dict.fromkeys(_text(level.budget) for level in part.levels):
            of_level = [one for one in self._networks if one.part == part.name and _text(one.budget) == budget]
            best = sorted(of_level, key=lambda one: (one.closed_form, one.number))[:each]
            yield from (one for one in best if one.compensated is None)

    def _second_look(self, one: ScreenedNetwork) -> None:
        rise, quality = self._look().compensated(one.counts)
        seen = replace(one, compensated=round(rise, 6), quality=quality)
        add_record(self.folder.screened, seen.refit_record())
        self._networks[one.number] = seen

    def _look(self) -> Looker:
        if self._looker is None:
            self._looker = self.looker()
        return self._looker


def _text(budget: Budget) -> str:
    return str(budget.to_json())
