"""What the networks worth keeping lose in int8: measured once, at the end of a search.

In each trial it would take several seconds of a processor (seven on a dense ResNet-56, most of it ONNX Runtime's own
quantisation), for networks that mostly leave the front again. What a kill leaves out, the next run finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autoprune.analysis.weight_retention import retained_trials
from autoprune.core.budget import Budget
from autoprune.core.int8_loss import Int8Loss
from autoprune.core.json_values import JsonObject
from autoprune.core.measurement import Measurement
from autoprune.core.notify import Notify
from autoprune.errors import AutopruneError
from autoprune.export.examples import examples_of
from autoprune.export.int8 import int8_score
from autoprune.search.setup.float_files import float_files
from autoprune.search.setup.prepared_study import PreparedStudy
from autoprune.search.taking_turns import Turn
from autoprune.search.trial_weights import load_trial, stored_numbers
from autoprune.study.divided_work import DividedWork
from autoprune.study.folder import StudyFolder
from autoprune.study.later_int8 import INT8
from autoprune.study.ledger import Ledger
from autoprune.study.spec import StudySpec


def int8_owed(
    ledger: Ledger, spec: StudySpec, folder: StudyFolder, budget: Budget, dense: Measurement | None
) -> list[int]:
    """Return the trials worth keeping whose loss in int8 is not known, and whose weights are here, by number.

    Args:
        ledger: open.
        spec: with the latency format decided; none is owed but in int8.
        folder: of the study.
        budget: absolute limits of the present run.
        dense: what was measured of the dense network.
    """
    if spec.latency.format != "int8":
        return []
    known, here = ledger.facts, stored_numbers(folder)
    worth = retained_trials(ledger.trials, spec.objectives, budget, spec.quality, dense)
    return [number for number in sorted(worth & set(here)) if f"{INT8}{number}" not in known]


def measure_int8(ledger: Ledger, study: PreparedStudy, budget: Budget, say: Notify) -> int:
    """Quantise and score every network worth keeping of which that is not known; return how many were.

    The workers of a folder share it: one has the turn, and the others take part until nothing is left.

    Args:
        ledger: open.
        study: that the trials are of.
        budget: absolute limits of the present run.
        say: called with a sentence on what is going on.
    """
    if study.spec.latency.format != "int8":
        return 0
    work, scorer = DividedWork(study.folder.divided_int8), _Scorer(study)
    with closing(Turn(study.folder.quantising)) as turn:
        turn.wait(say, "taking part in scoring trials in int8", lambda: work.help({INT8: scorer.scored}))
        owed = int8_owed(ledger, study.spec, study.folder, budget, study.dense)
        if not owed:
            return 0
        say(f"scoring {len(owed)} trial{'' if len(owed) == 1 else 's'} worth keeping in int8")
        with work.open():
            for number, found in zip(owed, work.results(INT8, _items(owed), scorer.scored), strict=True):
                ledger.remember(f"{INT8}{number}", found)
                if found["failure"]:
                    say(f"trial {number} has no score in int8: {found['failure']}")
        return len(owed)


def _items(numbers: Sequence[int]) -> list[JsonObject]:
    return [{"trial": number} for number in numbers]


@dataclass
class _Scorer:
    """What scores trials' networks in int8; their files are derived from the dense network's where that can be."""

    study: PreparedStudy

    @cached_property
    def _file_of(self) -> Callable[..., bytes]:
        return float_files(self.study)

    def scored(self, item: Mapping[str, Any]) -> JsonObject:
        """Return what a trial's network loses, as JSON."""
        return self.loss_of(int(item["trial"])).to_json()

    def loss_of(self, number: int) -> Int8Loss:
        """Return what a trial's network loses; whatever cannot be quantised or scored is a failure in a line."""
        study, threads = self.study, self.study.spec.latency.threads
        try:
            network = load_trial(study.folder.path, number, study.network)
            content = self._file_of(network)
            score, _ = int8_score(content, network, examples_of(study.task, network), threads)
        except AutopruneError as error:
            return Int8Loss(failure=" ".join(str(error).split()))
        if score.fault:
            return Int8Loss(examples=score.count, failure=f"its answers are {score.fault}")
        return Int8Loss(score.gain, score.stderr, score.count)
