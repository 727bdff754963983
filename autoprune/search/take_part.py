"""What a worker does while another one prepares the study: it takes part in what divides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoprune.core.json_values import JsonObject
from autoprune.core.notify import Notify
from autoprune.search.screening.look import LOOKS, Looker
from autoprune.search.screening.prepare_screening import looker_of
from autoprune.search.setup.choose_peak_rate import RATE_TRIALS, RateTrial
from autoprune.search.setup.measure_sensitivity import LEVELS, SensitivityProbe, measure_level, sensitivity_probe
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.taking_turns import Turn
from autoprune.study.divided_work import DividedWork


def take_part(study: PreparedStudy, work: DividedWork, preparing: Turn, notify: Notify) -> None:
    """Take the turn to prepare a study as soon as nobody else has it, and take part in the preparation until then.

    Args:
        study: of which everything is stored that comes before what divides.
        work: laid out by the worker whose turn it is.
        preparing: the turn.
        notify: called with a sentence, once, if another worker has it.

    Raises:
        StudyError: if the turn cannot be taken.
    """
    helper = _Helper(study)
    computes = {RATE_TRIALS: helper.tried, LEVELS: helper.measured, LOOKS: helper.looked_at}
    preparing.wait(notify, "taking part in what another worker prepares", lambda: work.help(computes))


@dataclass
class _Helper:
    """What a worker needs to take part, made when it is first needed."""

    study: PreparedStudy

    def tried(self, item: Mapping[str, Any]) -> JsonObject:
        """Return the loss after a fine-tune with a learning rate."""
        return self._rates.loss_of(item)

    def measured(self, item: Mapping[str, Any]) -> JsonObject:
        """Return how far one cut moves the answers."""
        return measure_level(self._probe, item)

    def looked_at(self, item: Mapping[str, Any]) -> JsonObject:
        """Return what is seen of one network."""
        return self._looker.seen_of(item)

    @cached_property
    def _rates(self) -> RateTrial:
        return RateTrial(self.study)

    @cached_property
    def _probe(self) -> SensitivityProbe:
        return sensitivity_probe(self.study.context, self.study.start_pruner)

    @cached_property
    def _looker(self) -> Looker:
        return looker_of(self.study)
